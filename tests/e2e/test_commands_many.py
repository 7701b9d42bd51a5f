"""A thousand commands to a thousand scooters: each is done once and told."""

import asyncio
from collections import Counter

from tests.e2e.commanding import assert_sound, cast
from tests.e2e.scooter import Scooter
from tests.e2e.squad import Squad
from tests.e2e.system import System
from tests.eventually import eventually

SCOOTERS = 1000
ASKED_AT_ONCE = 100


async def test_1000_commands_to_1000_scooters_are_all_done_once_and_told(system: System) -> None:
    scooters = [Scooter(f"SC-{number:04d}") for number in range(SCOOTERS)]
    squad = Squad(scooters)
    async with cast(system, *scooters) as (_, operator), squad.online(system.mqtt_port):

        async def known() -> bool:
            states = await system.states(list(squad.scooters))
            return all(state.get("lock") == "locked" for state in states)

        await eventually(known, within_s=60, what="every state")
        turns = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(scooter: Scooter) -> str:
            async with turns:
                return await operator.ask(scooter.scooter_id, "unlock")

        refs = await asyncio.gather(*map(ask, scooters))

        async def told() -> bool:
            return ended() == {"succeeded": SCOOTERS}

        def ended() -> Counter[str]:
            last = {each["ref"]: each["status"] for each in operator.replies}
            return Counter(last[ref] for ref in refs if ref in last)

        try:
            await eventually(told, within_s=90, what="every success")
        except AssertionError as error:
            raise AssertionError(f"{error}: {ended()}") from None
        await assert_sound(system, operator, scooters)
        assert all(len(each.executed) == 1 for each in scooters)
        assert all(state["lock"] == "unlocked" for state in await system.states([*squad.scooters]))
