"""SIGTERM ends a gateway in order; what it had not settled comes again."""

import asyncio

import pytest

from tests.e2e.system import System, until
from tests.eventually import eventually
from tests.fleet import EventSender
from tests.load import Load

SCOOTERS = 500
RATE = 2_000.0
STOPS = 3


async def test_sigterm_under_load_ends_the_gateway_within_ten_seconds_and_loses_nothing(
    system: System,
) -> None:
    fleet = await system.fleet("T", SCOOTERS)
    gateway = await (await system.gateway()).ready()
    load = Load(system.mqtt_port, fleet.streams(2, laps=40), rate=RATE)
    loading = asyncio.create_task(load.run(within_s=120))
    for _ in range(STOPS):
        await until(loading, 1.5)
        assert await gateway.terminate(within_s=10) == 0
        await (await gateway.start()).ready()
    await loading
    await system.caught_up(fleet)
    await system.clean()
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    assert '"level": "error"' not in gateway.log
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("away", ["redis", "postgres", "mosquitto"])
async def test_sigterm_ends_the_gateway_within_ten_seconds_while_a_server_is_frozen(
    system: System, away: str
) -> None:
    fleet = await system.fleet("U", SCOOTERS)
    gateway = await (await system.gateway()).ready()
    server = getattr(system.servers, away)
    loading = asyncio.create_task(
        Load(system.mqtt_port, fleet.streams(1, laps=4), rate=RATE).run(within_s=90)
    )
    async with EventSender(system.mqtt_port).running() as events:
        await until(loading, 0.3)
        await asyncio.to_thread(server.pause)
        events.happen(fleet.ids[0], "while-frozen")
        await until(asyncio.Event(), 1.0)
        assert await gateway.terminate(within_s=10) == 0
        await asyncio.to_thread(server.resume)
        await (await gateway.start()).ready()
        await loading
        await system.caught_up(fleet)

        async def receipted() -> bool:
            return bool(events.receipted)

        await eventually(receipted, within_s=30, what="the receipt")
    await system.clean()
    rows = await system.ask("SELECT scooter_id, event_id FROM scooter_events")
    assert [tuple(row) for row in rows] == [(fleet.ids[0], "while-frozen")]
