"""The simulated fleet with credentials of its own, commanded over a real broker with TLS."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiomqtt
import orjson
import pytest

from devices.bundle import Bundle
from devices.contract import mac, topics
from devices.contract.commands import Command, build_command
from devices.contract.topics import Uplink
from devices.simulator.plan import Broker, CommandMishaps, FleetPlan, Mishaps, Obeyed, Totals
from devices.simulator.scooter import run_fleet
from gateway.local.servers import Servers
from tests.bundles import admit
from tests.eventually import eventually

pytestmark = pytest.mark.integration


@dataclass
class Commanded:
    """A fleet, what it executed, and the gateway's account that hears and commands it."""

    client: aiomqtt.Client
    bundles: dict[str, Bundle]
    totals: Totals = field(default_factory=Totals)
    obeyed: list[Obeyed] = field(default_factory=list)
    said: list[tuple[str, Uplink, Any]] = field(default_factory=list)
    heard_at: dict[str, float] = field(default_factory=dict)
    numbers: int = 0

    async def listen(self) -> None:
        async for message in self.client.messages:
            source = topics.parse_uplink(message.topic.value)
            if source is not None and message.payload:
                said = orjson.loads(bytes(message.payload))
                self.said.append((source.scooter_id, source.uplink, said))
                self.heard_at[source.scooter_id] = time.monotonic()

    def last(self, scooter_id: str) -> Any:  # noqa: ANN401 - a payload
        """The last that told an uptime."""
        for who, _, said in reversed(self.said):
            if who == scooter_id and isinstance(said, dict) and "up" in said:
                return said
        return None

    async def command(self, scooter_id: str, name: str, *, ttl_ms: int = 20_000) -> str:
        """Send one as the gateway does, by the uptime it last heard; returns its request id."""
        self.numbers += 1
        told = self.last(scooter_id)
        assert told is not None
        command = Command(
            request_id=f"{self.numbers:016x}",
            command=name,
            params={},
            n=1_767_268_800_000 + self.numbers,
            boot=told["boot"],
            exp=told["up"] + round((time.monotonic() - self.heard_at[scooter_id]) * 1000) + ttl_ms,
        )
        topic, key = topics.commands(scooter_id), self.bundles[scooter_id].command_key
        assert key is not None
        await self.client.publish(topic, mac.sign(key, topic, build_command(command)), qos=1)
        return command.request_id

    def answers(self, request_id: str) -> list[str]:
        return [
            said.get("error", said["status"])
            for _, uplink, said in self.said
            if uplink is Uplink.ACKS and said["request_id"] == request_id
        ]

    async def answered(self, request_id: str, *expected: str) -> None:
        await becomes(lambda: self.answers(request_id) == list(expected), f"{expected}")


async def becomes(probe: Callable[[], object], what: str) -> None:
    async def ask() -> bool:
        return bool(probe())

    await eventually(ask, within_s=30, what=what)


@asynccontextmanager
async def commanded(
    servers: Servers, *, size: int = 2, mishaps: CommandMishaps | None = None
) -> AsyncIterator[Commanded]:
    ids = tuple(f"SC-{number:04d}" for number in range(1, size + 1))
    bundles = await admit(servers, ids)
    odd = replace(Mishaps.none(), commands=mishaps or CommandMishaps())
    plan = FleetPlan(ids=ids, mishaps=odd, rides=False)
    stop = asyncio.Event()
    async with aiomqtt.Client(
        servers.mqtt_host,
        servers.mqtt_port,
        username=servers.mqtt_username,
        password=servers.mqtt_password,
    ) as client:
        await client.subscribe("scooters/+/+", qos=1)
        fleet = Commanded(client, bundles)
        listening = asyncio.create_task(fleet.listen())
        broker = Broker.of_bundles(bundles.values())
        riding = asyncio.create_task(
            run_fleet(plan, broker, stop=stop, totals=fleet.totals, witness=fleet.obeyed.append)
        )
        try:
            await becomes(lambda: all(map(fleet.last, ids)), "everybody's first word")
            yield fleet
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await riding
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def test_a_fleet_with_bundles_gets_in_over_tls_and_obeys_each_its_own_key(
    own_mosquitto: Servers,
) -> None:
    async with commanded(own_mosquitto, size=4) as fleet:
        requests = [await fleet.command(each, "unlock") for each in fleet.bundles]
        for request in requests:
            await fleet.answered(request, "received", "success")
        assert [each.request_id for each in fleet.obeyed] == requests

        one, other = list(fleet.bundles)[:2]
        fleet.bundles[one] = fleet.bundles[other]  # the key of another scooter
        await fleet.answered(await fleet.command(one, "lock"), "bad_mac")
    assert fleet.totals.commands_obeyed == 4
    assert fleet.totals.acks == 9


async def test_a_scooter_without_its_credential_stays_outside(own_mosquitto: Servers) -> None:
    bundles = await admit(own_mosquitto, ["SC-0001"])
    wrong = replace(bundles["SC-0001"], secret="wrong" * 8)
    totals, stop = Totals(), asyncio.Event()
    plan = FleetPlan(ids=("SC-0001",), mishaps=Mishaps.none())
    riding = asyncio.create_task(
        run_fleet(plan, Broker.of_bundles([wrong]), stop=stop, totals=totals)
    )
    log = own_mosquitto.folder / "mosquitto" / "mosquitto.log"
    await becomes(lambda: "not authorised" in log.read_text(), "the refusal in the broker's log")
    stop.set()
    await riding
    assert totals.connects == 0


async def test_an_answer_comes_at_once_and_not_with_the_next_report(
    own_mosquitto: Servers,
) -> None:
    async with commanded(own_mosquitto, size=1) as fleet:
        await becomes(lambda: any("fw" in said for *_, said in fleet.said), "its first reports")
        known = fleet.totals.reports
        request = await fleet.command("SC-0001", "headlight")
        await fleet.answered(request, "bad_params")
        request = await fleet.command("SC-0001", "locate")
        await fleet.answered(request, "received", "success")
        assert fleet.totals.reports == known


async def test_what_comes_out_of_a_frozen_connection_after_its_time_is_not_obeyed(
    own_mosquitto: Servers,
) -> None:
    freezes = CommandMishaps(freezes_per_h=3_600_000, freeze_s=2.5)
    async with commanded(own_mosquitto, size=1, mishaps=freezes) as fleet:
        late: list[str] = []
        while not late:
            request = await fleet.command("SC-0001", "unlock_battery", ttl_ms=1000)
            await becomes(partial(fleet.answers, request), "an answer")
            late = [request] if fleet.answers(request) == ["expired"] else []
        obeyed = {each.request_id: each for each in fleet.obeyed}
        assert not set(late) & set(obeyed)
        assert all(each.up_ms <= (each.exp_ms or 0) for each in obeyed.values())
        assert fleet.totals.connects == 1


async def test_a_freeze_keeps_the_connection_and_what_is_still_in_time_is_obeyed_after_it(
    own_mosquitto: Servers,
) -> None:
    freezes = CommandMishaps(freezes_per_h=3_600_000, freeze_s=1.0)
    async with commanded(own_mosquitto, size=1, mishaps=freezes) as fleet:
        began = time.monotonic()
        request = await fleet.command("SC-0001", "locate")
        await becomes(lambda: "received" in fleet.answers(request), "the answer after the freeze")
        await fleet.answered(request, "received", "success")
        assert time.monotonic() - began < 20
        assert fleet.totals.connects == 1


async def test_a_rebooted_scooter_answers_old_commands_as_foreign(own_mosquitto: Servers) -> None:
    async with commanded(own_mosquitto, size=1) as fleet:
        boot = fleet.last("SC-0001")["boot"]
        await fleet.answered(await fleet.command("SC-0001", "reboot"), "received", "success")
        fleet_numbers = fleet.numbers
        await becomes(lambda: fleet.last("SC-0001")["boot"] == boot + 1, "its next boot")
        assert fleet.numbers == fleet_numbers
        await fleet.answered(await fleet.command("SC-0001", "unlock"), "received", "success")
        births = [
            said["boot"]
            for _, uplink, said in fleet.said
            if uplink is Uplink.STATUS and said["s"] == "online"
        ]
        assert births == [boot, boot + 1]


async def test_a_switched_off_scooter_says_goodbye(own_mosquitto: Servers) -> None:
    async with commanded(own_mosquitto, size=1) as fleet:
        await fleet.answered(await fleet.command("SC-0001", "power_off"), "received", "success")
        await becomes(
            lambda: (
                [said for _, kind, said in fleet.said if kind is Uplink.STATUS][-1]["s"]
                == "offline"
            ),
            "its goodbye",
        )
