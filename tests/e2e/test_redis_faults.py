"""Redis emptied, killed or frozen under load: nothing is settled that is not kept."""

import asyncio
from functools import partial

import pytest

from gateway.telemetry.state_store import LOADED
from tests.e2e.system import System, until
from tests.eventually import eventually
from tests.fleet import EventSender, Fleet
from tests.gateway_process import GatewayProcess
from tests.load import Load

PARKED = 300
RIDING = 1_000
RATE = 2_000.0
EVENTS = 100
UNSETTLED_S = 3.0


async def _emptied_under_load(system: System, gateway: GatewayProcess, fleet: Fleet) -> None:
    """FLUSHALL while Postgres is frozen, so that the time before the refill can be looked at."""
    postgres = system.servers.postgres
    await asyncio.to_thread(postgres.pause)
    try:
        await system.redis.flushall()
        first = await gateway.metrics()  # what was on its way from Redis is settled by now
        await until(asyncio.Event(), 0.5)
        first = await gateway.metrics()
        await until(asyncio.Event(), UNSETTLED_S)
        second = await gateway.metrics()
        assert second.settled == first.settled
        assert second.in_flight > 0
        assert not await system.redis.exists(LOADED)
        assert set(await system.laps(fleet.ids)) == {0}
    finally:
        await asyncio.to_thread(postgres.resume)


async def test_redis_emptied_under_load_settles_nothing_until_the_states_are_back(
    system: System,
) -> None:
    parked, riding = await system.fleet("PARKED", PARKED), await system.fleet("RIDING", RIDING)
    gateway, enough = await (await system.gateway()).ready(), asyncio.Event()
    await Load(system.mqtt_port, parked.streams(2, laps=3)).run(within_s=30)
    await Load(system.mqtt_port, riding.streams(2, laps=1)).run(within_s=30)
    await system.caught_up(riding)
    await system.clean()
    before = await system.states(parked.ids)
    riding_before = await system.states(riding.ids)
    load = Load(system.mqtt_port, riding.streams(4, until=enough), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=120))

    await _emptied_under_load(system, gateway, parked)

    async def is_back() -> bool:
        return await system.states(parked.ids) == before

    await eventually(is_back, within_s=30, what="the states that only Postgres had")
    enough.set()
    await loading
    await Load(system.mqtt_port, riding.streams(4, laps=1)).run(within_s=30)
    await system.caught_up(riding)
    await system.clean()
    for old, new in zip(riding_before, await system.states(riding.ids), strict=True):
        assert int(new["version"]) > int(old["version"])
    await system.assert_stored(riding)
    await system.assert_stored(parked)
    await system.assert_no_row_twice()
    assert (await gateway.balanced()).in_flight == 0


async def test_an_empty_redis_at_start_is_refilled_before_anything_is_settled(
    system: System,
) -> None:
    fleet, one = await system.fleet("E", 200), await system.fleet("NEW", 1)
    gateway = await (await system.gateway()).ready()
    await Load(system.mqtt_port, fleet.streams(1, laps=2)).run(within_s=30)
    await system.caught_up(fleet)
    await system.clean()
    before = await system.states(fleet.ids)
    await gateway.terminate()
    await system.redis.flushall()
    await (await system.gateway()).ready()
    await Load(system.mqtt_port, one.streams(1, laps=1)).run(within_s=30)
    await system.caught_up(one)
    assert await system.states(fleet.ids) == before


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_redis_that_dies_or_freezes_under_load_loses_no_settled_message(
    system: System, fault: str
) -> None:
    fleet, enough = await system.fleet("R", RIDING), asyncio.Event()
    gateway = await (await system.gateway()).ready()
    redis = system.servers.redis
    load = Load(system.mqtt_port, fleet.streams(4, until=enough), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=120))
    # Never again: what the broker confirmed once is the gateway's to keep.
    async with EventSender(system.mqtt_port, resend_s=3600).running() as events:
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "before")
        await _confirmed(events, EVENTS)
        await asyncio.to_thread(getattr(redis, fault))
        for number in range(EVENTS):
            events.happen(fleet.ids[number], "during")
        await _confirmed(events, 2 * EVENTS)
        await until(loading, 5.0)
        await asyncio.to_thread(redis.start if fault == "kill" else redis.resume)
        enough.set()
        await loading
        await Load(system.mqtt_port, fleet.streams(4, laps=1)).run(within_s=60)
        await system.caught_up(fleet)
        await system.clean()
    await eventually(partial(_all_stored, system, 2 * EVENTS), within_s=60, what="every event")
    await system.clean()
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    assert (await gateway.balanced()).in_flight == 0
    assert gateway.is_running


async def _all_stored(system: System, count: int) -> bool:
    """The events session may still be waiting to try Redis again."""
    rows = await system.ask("SELECT count(*) AS n FROM scooter_events")
    return bool(rows[0]["n"] == count)


async def _confirmed(events: EventSender, count: int) -> None:
    async def probe() -> bool:
        return events.published == count and not events.unconfirmed

    await eventually(probe, within_s=30, what=f"{count} events confirmed by the broker")
