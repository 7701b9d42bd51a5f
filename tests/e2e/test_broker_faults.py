"""The broker restarted, killed or frozen: what is kept until its receipt is stored once."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.local.servers import Servers
from tests.e2e.system import System, until
from tests.eventually import eventually
from tests.fleet import EventSender
from tests.gateway_process import GatewayProcess
from tests.load import Load

SCOOTERS = 500
RATE = 1_500.0
EVENTS = 60
AWAY_S = 1.5
FROZEN_S = 6.0


async def _reconnected(gateway: GatewayProcess, connections: float) -> None:
    async def probe() -> bool:
        page = await gateway.page()
        return (
            page is not None
            and page.value("reconnects_total", connection="telemetry") >= connections
            and await gateway.problems() == {}
        )

    await eventually(probe, within_s=60, what="the gateway back at the broker")


def _restart(servers: Servers) -> None:
    servers.mosquitto.stop()
    servers.mosquitto.start()


def _crash(servers: Servers) -> None:
    servers.mosquitto.kill()
    servers.mosquitto.start()


@pytest.mark.parametrize("fault", [_restart, _crash], ids=["restarted", "killed"])
async def test_events_through_a_broker_that_goes_twice_are_all_stored_exactly_once(
    system: System, fault: Callable[[Servers], None]
) -> None:
    fleet, enough = await system.fleet("B", SCOOTERS), asyncio.Event()
    gateway = await (await system.gateway()).ready()
    load = Load(system.mqtt_port, fleet.streams(3, until=enough), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=150))
    async with EventSender(system.mqtt_port).running() as events:
        for round_number in range(2):
            for number in range(EVENTS):
                events.happen(fleet.ids[number], f"r{round_number}")
            await until(loading, AWAY_S)
            await asyncio.to_thread(fault, system.servers)
            await _reconnected(gateway, round_number + 2)
        await _receipted(events, 2 * EVENTS)
        enough.set()
        await loading
    assert load.connects == 3 * 3, "the publishers were meant to lose the broker twice"
    await Load(system.mqtt_port, fleet.streams(3, laps=1)).run(within_s=60)
    await system.caught_up(fleet)
    await system.clean()
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    assert await _stored_events(system) == 2 * EVENTS
    page = await gateway.balanced()
    assert page.in_flight == 0
    if fault is _restart:
        for session in ("telemetry", "events", "control"):
            assert page.value("sessions_forgotten_total", session=session) == 0


async def test_what_an_orderly_restart_of_the_broker_finds_queued_arrives(system: System) -> None:
    fleet = await system.fleet("W", SCOOTERS)
    gateway = await (await system.gateway()).ready()
    assert await gateway.terminate() == 0
    await Load(system.mqtt_port, fleet.streams(2, laps=4)).run(within_s=60)
    await asyncio.to_thread(_restart, system.servers)
    await (await gateway.start()).ready()
    await system.caught_up(fleet)
    page = await gateway.balanced()
    assert page.outcome("applied") == 4 * SCOOTERS


async def test_a_broker_that_freezes_is_left_and_met_again(system: System) -> None:
    fleet, enough = await system.fleet("Z", SCOOTERS), asyncio.Event()
    gateway = await (await system.gateway(echo_period_s=1.0, mqtt_keepalive_s=5)).ready()
    load = Load(system.mqtt_port, fleet.streams(2, until=enough), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=120))
    async with EventSender(system.mqtt_port).running() as events:
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "before")
        await _receipted(events, EVENTS)
        await asyncio.to_thread(system.servers.mosquitto.pause)
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "during")

        async def noticed() -> bool:
            return bool(await gateway.problems())

        await eventually(noticed, within_s=30, what="a gateway that knows it hears nothing")
        await until(loading, FROZEN_S)
        await asyncio.to_thread(system.servers.mosquitto.resume)
        await gateway.ready(within_s=60)
        await _receipted(events, 2 * EVENTS)
        enough.set()
        await loading
    await Load(system.mqtt_port, fleet.streams(2, laps=1)).run(within_s=60)
    await system.caught_up(fleet)
    await system.clean()
    assert await _stored_events(system) == 2 * EVENTS
    assert (await gateway.balanced()).in_flight == 0


async def _receipted(events: EventSender, count: int) -> None:
    async def probe() -> bool:
        return len(events.receipted) == count

    await eventually(probe, within_s=60, what=f"{count} receipts")


async def _stored_events(system: System) -> int:
    rows = await system.ask("SELECT count(*) AS n FROM scooter_events")
    return int(rows[0]["n"])
