"""The doctor at the access list: may anybody speak, or listen, as somebody else?

What was published and must not arrive is watched for; that a subscription was granted proves
nothing. Payloads are empty and ids new each time, so that a gateway which hears them keeps nothing.

`admin` stands for every login: the access list names it nowhere, so it has what `pattern` lines
give, and no more.
"""

import secrets
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from devices.contract import topics
from devices.contract.topics import Uplink
from gateway.console.doctor_report import Report
from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress, broker_address
from gateway.links.probe import TIMEOUT_S, LoginRefused, Probe, open_probe
from gateway.settings import Settings

ADMIN: Final = "admin"
GATEWAY: Final = "the gateway's account"

_REMEDY: Final = "give the broker the access list broker/acl (`acl_file`), and restart it"


async def examine_access(settings: Settings) -> Report:
    """Raises SettingsError for wrong certificate files; whatever else is wrong is a finding."""
    report = Report("access", f"{settings.mqtt_host}:{settings.mqtt_port}")
    broker = broker_address(settings)
    name = f"doctor-{secrets.token_hex(6)}"
    try:
        async with AsyncExitStack() as stack:
            gateway = await _join(stack, broker, client_id=f"{name}-gateway")
            # Where a client id is free, it must not be worth anything (`%c`).
            admin = await _join_as_admin(stack, broker, settings, report, client_id=name)
            await _try_all(gateway, admin, report, name=name)
    except ServerAway as error:
        report.findings.append(
            f"{error.detail}: whether it keeps logins apart could not be tried; see the broker"
        )
    return report


async def _join(stack: AsyncExitStack, broker: BrokerAddress, *, client_id: str) -> Probe:
    probe = await stack.enter_async_context(open_probe(broker))
    await probe.connect(broker, client_id, clean_start=True, session_expiry_s=0)
    return probe


async def _join_as_admin(
    stack: AsyncExitStack,
    broker: BrokerAddress,
    settings: Settings,
    report: Report,
    *,
    client_id: str,
) -> Probe | None:
    """None where its password is not set or not right: then the gateway's account tries alone."""
    password = settings.mqtt_admin_password
    if password is None:
        report.notes.append(
            "SCOOTER_MQTT_ADMIN_PASSWORD is not set: only what the gateway's own account may not "
            "do was tried"
        )
        return None
    address = replace(broker, username=ADMIN, password=password.get_secret_value())
    try:
        return await _join(stack, address, client_id=client_id)
    except LoginRefused as error:
        report.findings.append(
            f"as `{ADMIN}` {error.detail}: check SCOOTER_MQTT_ADMIN_PASSWORD, without which no "
            "revoked scooter's session is ended"
        )
        return None


async def _try_all(gateway: Probe, admin: Probe | None, report: Report, *, name: str) -> None:
    """With the names of a scooter, an operator's key and an instance that nobody has."""
    status = topics.uplink(name, Uplink.STATUS)
    echo = topics.echo(name)
    uplinks = [topics.uplink(name, kind) for kind in Uplink if kind is not Uplink.STATUS]
    said_by_others = [*uplinks, topics.requests(name), topics.requests(f"{name}.probe")]
    said_to_others = [
        topics.commands(name),
        topics.receipts(name),
        topics.replies(name),
        topics.replies(f"{name}.probe"),
    ]
    everything = [*said_by_others, *said_to_others, status, topics.gateway_status(name), echo]
    trial = _Trial(gateway, report, name=name)
    await gateway.subscribe(*everything)
    await trial.control(echo)
    await trial.speak(gateway, GATEWAY, said_by_others)
    await trial.overhear(gateway, GATEWAY, said_to_others)
    if admin is not None:
        await _try_patterns(trial, admin, everything, [*said_to_others, echo])
    report.facts["kept_apart"] = not report.findings
    report.notes.append(
        "whether the gateway may read what scooters say cannot be tried without one: compare the "
        "broker's access list with broker/acl"
    )


async def _try_patterns(
    trial: "_Trial", admin: Probe, unwritable: list[str], unreadable: list[str]
) -> None:
    """What a scooter or an operator could do with patterns too wide, `admin` can."""
    # Nobody may speak as the gateway to itself either: a scooter could unlock itself.
    own = [
        topics.commands(ADMIN),
        topics.receipts(ADMIN),
        topics.replies(ADMIN),
        topics.gateway_status(ADMIN),
        topics.echo(ADMIN),
    ]
    await admin.subscribe(*unwritable, *own)
    await trial.permitted(admin, f"`{ADMIN}`", topics.uplink(ADMIN, Uplink.STATUS))
    await trial.speak(admin, f"`{ADMIN}`", [*unwritable, *own])
    await trial.overhear(admin, f"`{ADMIN}`", unreadable)


class _Trial:
    """`gateway` may hear whatever scooters and operators say, and speak to all of them."""

    def __init__(self, gateway: Probe, report: Report, *, name: str) -> None:
        self._gateway = gateway
        self._report = report
        self._name = name

    async def control(self, allowed: str) -> None:
        """What is allowed arrives: otherwise silence proves nothing."""
        await self._gateway.publish(allowed, b"")
        await self._gateway.receive(1, within_s=TIMEOUT_S)
        if allowed not in {each.topic for each in self._gateway.deliveries}:
            self._find({allowed}, f"{GATEWAY} publishes to {{}} and does not hear it")

    async def permitted(self, speaker: Probe, who: str, own: str) -> None:
        """What each login may do, this one may: otherwise its refusals prove nothing."""
        if not await speaker.publish(own, b""):
            self._find(
                {own},
                f"{who} may not publish to {{}}, as every login may under its own name, so what "
                "the `pattern` lines give was not tried",
            )

    async def speak(self, speaker: Probe, who: str, forbidden: list[str]) -> None:
        """Nothing of this may be taken by the broker, nor reach anybody."""
        speaker.deliveries.clear()
        self._gateway.deliveries.clear()
        taken = {topic for topic in forbidden if await speaker.publish(topic, b"")}
        arrived = await _heard(speaker) | await _heard(self._gateway)
        self._find(arrived & {*forbidden}, f"{who} may publish to {{}}, and it arrives")
        self._find(taken - arrived, f"the broker takes what {who} publishes to {{}}")

    async def overhear(self, listener: Probe, who: str, forbidden: list[str]) -> None:
        """Nothing of this may reach the listener when the gateway says it."""
        listener.deliveries.clear()
        for topic in forbidden:
            await self._gateway.publish(topic, b"")
        arrived = await _heard(listener)
        self._find(arrived & {*forbidden}, f"{who} may read {{}}")

    def _find(self, found: set[str], sentence: str) -> None:
        if found:
            shapes = {each.replace(self._name, "+").replace("+.probe", "+") for each in found}
            told = sentence.format(", ".join(sorted(shapes)))
            self._report.findings.append(f"{told}: {_REMEDY}")


async def _heard(probe: Probe) -> set[str]:
    """What reached it so far: Mosquitto answers a subscription after what it delivered before."""
    await probe.subscribe(topics.echo(f"doctor-{secrets.token_hex(6)}"))
    return {each.topic for each in probe.deliveries}
