"""A gateway that is killed at any moment loses nothing and writes nothing twice."""

import asyncio
import random
import time

import pytest

from tests.e2e.system import System
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess
from tests.load import Load

SCOOTERS = 20_000
LAPS = 10
KILLS = 3
RATE = 9_000.0
"""Reports a second, so that the load goes on while the gateway is away."""


async def _settle_some(gateway: GatewayProcess, at_least: int) -> None:
    async def probe() -> bool:
        page = await gateway.page()
        return page is not None and page.settled >= at_least

    await eventually(probe, within_s=60, what=f"{at_least} settled deliveries")


@pytest.mark.timeout(300)
async def test_200000_reports_and_three_kills_end_in_each_scooters_last_report(
    system: System,
) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    print(f"seed {seed}")  # noqa: T201 - told when it fails
    fleet = await system.fleet("K", SCOOTERS)
    load = Load(system.mqtt_port, fleet.streams(4, laps=LAPS), rate=RATE)
    gateway = await (await system.gateway(snapshot_period_s=5)).ready()
    loading = asyncio.create_task(load.run(within_s=240))
    for _ in range(KILLS):
        await _settle_some(gateway, chance.randrange(1, SCOOTERS))
        await gateway.balanced()
        assert await system.laps(fleet.ids) != [LAPS] * SCOOTERS, "there is work left"
        await gateway.kill()
        await gateway.start()
    await loading
    assert load.acknowledged == SCOOTERS * LAPS

    await system.caught_up(fleet, within_s=120)
    await system.clean()
    assert (await gateway.balanced()).in_flight == 0
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    assert await gateway.terminate() == 0
