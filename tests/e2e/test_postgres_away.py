"""Without Postgres the states live, memory is flat and nothing is lost: only resolution is."""

import asyncio

import pytest

from tests.e2e.system import PERIOD_S, System, until
from tests.eventually import eventually
from tests.fleet import EventSender, Fleet
from tests.load import Load

SCOOTERS = 2_000
RATE = 2_000.0
PERIODS = 10
EVENTS = 40
MEMORY_MIB = 12.0
"""How much a gateway may hold more during the outage than at its beginning."""
WRITING_MIB = 64.0
"""And at most while it writes what the outage left."""


async def _store_a_first_snapshot(system: System, fleet: Fleet) -> None:
    async def probe() -> bool:
        rows = await system.ask("SELECT count(*) AS n FROM scooter_state")
        return bool(rows[0]["n"] == len(fleet.ids))

    await eventually(probe, within_s=60, what="a first row of every scooter")


async def _assert_live(system: System, fleet: Fleet, before: int) -> int:
    """The states move on; returns how far the slowest is."""

    async def probe() -> int:
        slowest = min(await system.laps(fleet.ids))
        return slowest if slowest > before else 0

    return await eventually(probe, within_s=20, what=f"states past report {before}")


async def test_postgres_away_for_ten_periods_costs_resolution_and_nothing_else(
    system: System,
) -> None:
    fleet, enough = await system.fleet("P", SCOOTERS), asyncio.Event()
    gateway = await (await system.gateway()).ready()
    load = Load(system.mqtt_port, fleet.streams(4, until=enough), rate=RATE)
    events = EventSender(system.mqtt_port, resend_s=3.0)
    loading = asyncio.create_task(load.run(within_s=150))
    async with events.running():
        await _store_a_first_snapshot(system, fleet)
        await asyncio.to_thread(system.servers.postgres.stop)
        for number in range(EVENTS):
            events.happen(fleet.ids[number], f"away-{number}")
        at_first = gateway.resident_mib
        slowest = 0
        for _ in range(PERIODS):
            await until(loading, PERIOD_S)
            slowest = await _assert_live(system, fleet, slowest)
            assert await system.dirty() <= SCOOTERS
            assert gateway.resident_mib - at_first <= MEMORY_MIB
            assert not events.receipted
        enough.set()
        await loading
        await Load(system.mqtt_port, fleet.streams(4, laps=1)).run(within_s=60)
        await system.caught_up(fleet)

        await asyncio.to_thread(system.servers.postgres.start)
        returned = (await system.ask("SELECT pg_postmaster_start_time() AS at"))[0]["at"]
        await system.clean()
        await _receipted(events, EVENTS)
    rows = await system.ask(
        "SELECT scooter_id, count(*) AS n FROM scooter_snapshots WHERE stored_at >= $1 GROUP BY 1",
        returned,
    )
    assert {row["scooter_id"]: row["n"] for row in rows} == dict.fromkeys(fleet.ids, 1)
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    stored = await system.ask("SELECT event_id FROM scooter_events")
    assert {row["event_id"] for row in stored} == {f"away-{n}" for n in range(EVENTS)}
    assert (await gateway.balanced()).in_flight == 0
    assert gateway.resident_mib - at_first <= WRITING_MIB


async def test_a_gateway_that_starts_without_postgres_keeps_the_states(system: System) -> None:
    fleet = await system.fleet("Q", 50)
    first = await (await system.gateway()).ready()
    await Load(system.mqtt_port, fleet.streams(1, laps=1)).run(within_s=30)
    await system.caught_up(fleet)
    assert await first.terminate() == 0
    await asyncio.to_thread(system.servers.postgres.stop)
    gateway = await (await system.gateway()).ready()
    await Load(system.mqtt_port, fleet.streams(1, laps=3)).run(within_s=30)
    await system.caught_up(fleet)
    await asyncio.to_thread(system.servers.postgres.start)
    await system.clean()
    await system.assert_stored(fleet)
    assert await gateway.terminate() == 0


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_postgres_that_dies_or_freezes_under_load_gets_everything_once(
    system: System, fault: str
) -> None:
    fleet, enough = await system.fleet("F", 500), asyncio.Event()
    gateway = await (await system.gateway()).ready()
    postgres = system.servers.postgres
    load = Load(system.mqtt_port, fleet.streams(2, until=enough), rate=1_000.0)
    loading = asyncio.create_task(load.run(within_s=120))
    async with EventSender(system.mqtt_port).running() as events:
        await _store_a_first_snapshot(system, fleet)
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "before")
        await asyncio.to_thread(getattr(postgres, fault))
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "during")
        await until(loading, 5.0)
        await asyncio.to_thread(postgres.start if fault == "kill" else postgres.resume)
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
    assert (await gateway.balanced()).in_flight == 0


async def _receipted(events: EventSender, count: int) -> None:
    async def probe() -> bool:
        return len(events.receipted) == count

    await eventually(probe, within_s=60, what=f"{count} receipts")
    assert not events.kept
