"""A reload ends sessions that are away; none of them may take the broker or anybody else along."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiomqtt import Client, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import SecretStr

from gateway.links.broker import broker_address
from gateway.links.plans import session_plans
from gateway.local.mosquitto_package import Mosquitto
from gateway.settings import Settings
from tests.broker_place import Account, BrokerPlace
from tests.eventually import eventually
from tests.mqtt_session import running

RELOADS = 3
OTHERS = 100


@pytest.fixture
def place(
    tmp_path: Path, mosquitto_program: Mosquitto | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BrokerPlace]:
    # Whoever uses memory that was freed finds it overwritten, instead of unharmed by good luck.
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    with BrokerPlace(tmp_path / "broker", mosquitto_program) as place:
        yield place


def expiring(place: BrokerPlace, account: Account, *, client_id: str, after_s: int) -> Client:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = after_s
    return place.client(account, client_id=client_id, clean_start=False, properties=properties)


@asynccontextmanager
async def gateway_sessions(place: BrokerPlace) -> AsyncIterator[None]:
    """All that a gateway has at the broker, with its default settings."""
    settings = Settings(
        _env_file=None,
        mqtt_port=place.ports.internal,
        mqtt_username="gateway",
        mqtt_password=SecretStr(place.secrets["gateway"]),
    )
    plans = session_plans(settings)
    async with AsyncExitStack() as stack:
        for plan in (plans.telemetry, plans.events, plans.control):
            session = await stack.enter_async_context(running(broker_address(settings), plan))
            await session.until(lambda each=session: each.session.connected, plan.name)  # type: ignore[misc]
        yield


@asynccontextmanager
async def many_clients(place: BrokerPlace) -> AsyncIterator[list[Client]]:
    gateway = place.fixed("gateway")
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(place.client(gateway, client_id=f"live/{number}"))
            for number in range(OTHERS)
        ]


async def assert_nobody_was_hurt(place: BrokerPlace, live: list[Client]) -> None:
    """Once the broker has looked for sessions that are over."""
    async with expiring(place, place.fixed("gateway"), client_id="over", after_s=1):
        pass

    async def looked() -> bool:
        return "Expiring client over " in place.log() or not place.server.is_running

    await eventually(looked, within_s=30, what="a session that is over")
    for client in live:
        await client.publish("gateway/live/echo", b"", qos=1)
    assert place.server.is_running
    assert place.log().count("Expiring client") == 1


async def test_reloads_after_a_restart_hurt_nobody_while_the_gateways_sessions_are_away(
    place: BrokerPlace,
) -> None:
    scooter = place.scooter("SC-0001")
    await place.admission().admit(place.logins)
    async with (
        gateway_sessions(place),
        place.client(
            scooter, client_id=scooter.name, protocol=ProtocolVersion.V311, clean_session=False
        ) as client,
    ):
        await client.subscribe("scooters/SC-0001/commands", qos=1)
    await asyncio.to_thread(place.server.stop)
    await asyncio.to_thread(place.server.start)

    for _ in range(RELOADS):
        await place.admission().admit(place.logins)

    async with gateway_sessions(place), many_clients(place) as live:
        await assert_nobody_was_hurt(place, live)


@pytest.mark.parametrize("change", ["removed", "rotated"])
async def test_who_is_away_with_a_session_that_ends_can_lose_a_login_and_nobody_is_hurt(
    place: BrokerPlace, change: str
) -> None:
    scooters = [place.scooter(f"SC-000{number}") for number in range(4)]
    broker = place.admission()
    await broker.admit(place.logins)
    for scooter in scooters:
        async with expiring(place, scooter, client_id=scooter.name, after_s=1000) as client:
            await client.subscribe(f"scooters/{scooter.name}/commands", qos=1)
    for scooter in scooters:
        del place.logins[scooter.name], place.secrets[scooter.name]
        if change == "rotated":
            place.scooter(scooter.name)

    for _ in range(RELOADS):
        await broker.admit(place.logins)

    async with many_clients(place) as live:
        for scooter in scooters:
            assert not (await broker.end_session(scooter.name)).returned
        await assert_nobody_was_hurt(place, live)
