"""Several gateways with commands flowing: none is lost and none is done twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bundles import FLEET_SECRET
from tests.e2e.commanding import Operator, assert_sound, cast, online
from tests.e2e.scooter import Scooter
from tests.e2e.system import System
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess

SCOOTERS = 6
ROUNDS_AFTER = 2


async def _stands_by(gateway: GatewayProcess) -> None:
    async def probe() -> bool:
        problems = await gateway.problems()
        return problems is not None and "lease" in problems

    await eventually(probe, within_s=30, what="a gateway that stands by")


async def _is_primary(gateway: GatewayProcess) -> None:
    async def probe() -> bool:
        page = await gateway.page()
        return page is not None and page.value("primary") == 1

    await eventually(probe, within_s=30, what="the other gateway to be primary")


class Flow:
    """Each scooter is unlocked and locked in turn, one command after the other's end.

    What is refused because the ledger does not answer is asked again: a gateway that is frozen in
    a transaction keeps its rows from the others until Postgres ends it.
    """

    def __init__(self, operator: Operator, scooters: list[Scooter]) -> None:
        self._operator = operator
        self._scooters = scooters
        self._stopping = asyncio.Event()
        self.refs: list[str] = []
        self.refused: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Flow"]:
        """Stops after the block, with every command at its end."""
        async with asyncio.TaskGroup() as group:
            for each in self._scooters:
                group.create_task(self._command(each))
            yield self
            self._stopping.set()

    async def rounds(self, count: int) -> None:
        """Until so many more commands ended for each scooter, on average."""
        wanted = len(self.refs) + count * len(self._scooters)

        async def probe() -> bool:
            return len(self.refs) >= wanted

        await eventually(probe, within_s=120, what=f"{count} rounds of commands")

    async def _command(self, scooter: Scooter) -> None:
        command = "unlock"
        while not self._stopping.is_set():
            ref = await self._operator.ask(scooter.scooter_id, command)
            end = await self._operator.until(ref, within_s=120)
            if end.get("detail", "").startswith("unavailable"):
                self.refused.append(ref)
                continue
            self.refs.append(ref)
            command = "lock" if command == "unlock" else "unlock"


async def _assert_all_done(
    system: System, operator: Operator, flow: Flow, scooters: list[Scooter]
) -> None:
    await assert_sound(system, operator, scooters)
    ends = [operator.of(ref)[-1] for ref in flow.refs]
    assert [each for each in ends if each["status"] != "succeeded"] == []
    assert sum(len(each.executed) for each in scooters) == len(ends)
    assert all(set(operator.story(ref)) <= {"sent", "refused"} for ref in flow.refused)


def _scooters() -> list[Scooter]:
    return [Scooter(f"SC-{number:04d}") for number in range(SCOOTERS)]


async def test_a_standby_takes_the_commands_over_from_a_gateway_that_is_killed(
    system: System,
) -> None:
    scooters = _scooters()
    async with cast(system, *scooters, instance="one") as (first, operator):
        second = await system.gateway("one", fleet_secret=FLEET_SECRET)
        await _stands_by(second)
        async with online(system, *scooters), Flow(operator, scooters).running() as flow:
            await flow.rounds(2)
            await first.kill()
            await second.ready()
            await flow.rounds(ROUNDS_AFTER)
        await _assert_all_done(system, operator, flow, scooters)


async def test_a_gateway_that_was_frozen_wakes_up_and_sends_nothing_of_what_is_anothers(
    system: System,
) -> None:
    scooters = _scooters()
    async with cast(system, *scooters, instance="one") as (first, operator):
        second = await system.gateway("one", fleet_secret=FLEET_SECRET)
        await _stands_by(second)
        async with online(system, *scooters), Flow(operator, scooters).running() as flow:
            await flow.rounds(2)
            first.pause()
            await second.ready()
            await flow.rounds(ROUNDS_AFTER)
            first.resume()
            await _stands_by(first)
            await flow.rounds(ROUNDS_AFTER)
        await _assert_all_done(system, operator, flow, scooters)


async def test_another_instance_goes_on_with_the_commands_of_one_that_is_killed_or_frozen(
    system: System,
) -> None:
    scooters = _scooters()
    async with cast(system, *scooters, instance="one", mqtt_shared=True) as (first, operator):
        second = await system.gateway("two", fleet_secret=FLEET_SECRET, mqtt_shared=True)
        await second.ready()
        async with online(system, *scooters), Flow(operator, scooters).running() as flow:
            await flow.rounds(2)
            first.pause()
            await _is_primary(second)
            await flow.rounds(ROUNDS_AFTER)
            first.resume()
            await first.ready()
            await flow.rounds(ROUNDS_AFTER)
            await second.kill()
            await _is_primary(first)
            await flow.rounds(ROUNDS_AFTER)
        await _assert_all_done(system, operator, flow, scooters)
