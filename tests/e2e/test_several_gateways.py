"""Several gateways: one stands by under the same name, two with different names share the load."""

import asyncio

from tests.e2e.system import LEASE_S, System, until
from tests.eventually import eventually
from tests.fleet import EventSender
from tests.gateway_process import GatewayProcess
from tests.load import Load

SCOOTERS = 500
RATE = 1_000.0
EVENTS = 50
ORPHANS = [f"SC-{number:04d}" for number in range(EVENTS)]
CONNECTIONS = ("telemetry", "events", "control", "downlink")


async def _stands_by(gateway: GatewayProcess) -> None:
    async def probe() -> bool:
        problems = await gateway.problems()
        return problems is not None and "lease" in problems

    await eventually(probe, within_s=30, what="a gateway that stands by")


async def _connects(gateway: GatewayProcess) -> list[float]:
    page = await gateway.metrics()
    return [page.value("reconnects_total", connection=each) for each in CONNECTIONS]


async def test_a_frozen_gateway_finds_its_name_taken_and_stands_by(system: System) -> None:
    fleet, enough = await system.fleet("F", SCOOTERS), asyncio.Event()
    first = await (await system.gateway("one")).ready()
    second = await system.gateway("one")
    await _stands_by(second)
    load = Load(system.mqtt_port, fleet.streams(2, until=enough), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=120))
    async with EventSender(system.mqtt_port).running() as events:
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "before")
        await _receipted(events, EVENTS)
        first.pause()
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "frozen")
        await second.ready()
        await until(loading, LEASE_S)
        first.resume()
        await _stands_by(first)
        assert await second.problems() == {}
        connects = [await _connects(first), await _connects(second)]
        await until(loading, 3 * LEASE_S)
        assert [await _connects(first), await _connects(second)] == connects, "no ping-pong"
        await _receipted(events, 2 * EVENTS)
        enough.set()
        await loading
    await Load(system.mqtt_port, fleet.streams(2, laps=1)).run(within_s=60)
    await system.caught_up(fleet)
    await system.clean()
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    rows = await system.ask("SELECT count(*) AS n FROM scooter_events")
    assert rows[0]["n"] == 2 * EVENTS
    for gateway in (first, second):
        assert (await gateway.balanced()).in_flight == 0


async def test_a_standby_takes_over_at_once_from_a_gateway_that_stops_in_order(
    system: System,
) -> None:
    fleet = await system.fleet("O", SCOOTERS)
    first = await (await system.gateway("one", lease_s=60)).ready()
    second = await system.gateway("one", lease_s=1)
    await _stands_by(second)
    loading = asyncio.create_task(
        Load(system.mqtt_port, fleet.streams(2, laps=6), rate=RATE).run(within_s=60)
    )
    await until(loading, 1.0)
    assert await first.terminate() == 0
    await second.ready(within_s=20)
    await loading
    await system.caught_up(fleet)


async def test_gateways_with_different_names_share_telemetry_and_write_snapshots_once(
    system: System,
) -> None:
    fleet = await system.fleet("S", SCOOTERS)
    gateways = [
        await (await system.gateway(name, mqtt_shared=True)).ready() for name in ("one", "two")
    ]
    async with EventSender(system.mqtt_port).running() as events:
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "shared")
        load = Load(system.mqtt_port, fleet.streams(2, laps=10), rate=RATE)
        await load.run(within_s=60)
        await _receipted(events, EVENTS)
    await system.caught_up(fleet)
    await system.clean()
    pages = [await gateway.balanced() for gateway in gateways]
    assert sum(page.settled - page.outcome("event") for page in pages) == 10 * SCOOTERS
    assert all(page.outcome("applied") > SCOOTERS for page in pages)
    assert sorted(page.outcome("event") for page in pages) == [0, EVENTS]
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    rows = await system.ask("SELECT count(*) AS n FROM scooter_snapshots")
    # One that is written a moment before the other looks may be written again in the period.
    writes = sum(page.value("snapshot_rows_total") for page in pages)
    assert rows[0]["n"] <= writes <= 1.3 * rows[0]["n"]


async def test_events_go_to_the_other_gateway_when_the_first_one_ends(system: System) -> None:
    await system.register(*ORPHANS)
    names = ("one", "two")
    gateways = [await (await system.gateway(name, mqtt_shared=True)).ready() for name in names]

    async def primary() -> list[float]:
        return [(await each.metrics()).value("primary") for each in gateways]

    assert await primary() == [1, 0]
    async with EventSender(system.mqtt_port).running() as events:
        await gateways[0].kill()
        for scooter_id in ORPHANS:
            events.happen(scooter_id, "orphaned")
        await _receipted(events, EVENTS)
    assert (await gateways[1].metrics()).value("primary") == 1
    rows = await system.ask("SELECT count(*) AS n FROM scooter_events")
    assert rows[0]["n"] == EVENTS


async def test_a_gateway_that_stands_by_never_takes_the_events(system: System) -> None:
    await system.register(*ORPHANS)
    other = await (await system.gateway("other", mqtt_shared=True)).ready()
    first = await (await system.gateway("one", mqtt_shared=True)).ready()
    second = await system.gateway("one", mqtt_shared=True)
    await _stands_by(second)
    first.pause()  # it has asked for the events before
    await second.ready()
    first.resume()
    await _stands_by(first)
    async with EventSender(system.mqtt_port).running() as events:
        await other.kill()
        for scooter_id in ORPHANS:
            events.happen(scooter_id, "orphaned")
        await _receipted(events, EVENTS)
    primaries = [(await each.metrics()).value("primary") for each in (first, second)]
    assert primaries == [0, 1]


async def _receipted(events: EventSender, count: int) -> None:
    async def probe() -> bool:
        return len(events.receipted) == count

    await eventually(probe, within_s=60, what=f"{count} receipts")
