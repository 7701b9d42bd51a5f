"""Whoever is primary takes up every open command: after a start, a takeover, an outage."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import asyncpg

from devices.contract.commands import COMMANDS, CommandStatus
from gateway.commands import ledger
from gateway.commands.acks import Acks
from gateway.commands.facts import FactsReader
from gateway.commands.open_commands import OpenCommands, taken_up
from gateway.errors import ServerAway
from gateway.outage import Outage
from gateway.storage.postgres import AWAY

PERIOD_S: Final = 2.0
EVERY: Final = 5
"""Rounds between two looks into the ledger while nothing was lost."""

PRUNE_PERIOD_S: Final = 600.0

_AT_ONCE: Final = 500
"""Commands that are read in one go."""

LOOKED_AT: Final = 1000
"""Scooters that one round looks at: Redis has telemetry to keep, also while a fleet is away."""

_AWAY: Final[tuple[type[BaseException], ...]] = (ServerAway, *AWAY)


class TakingUp:
    """Keeps `open_commands` what the ledger says is open, and finds who came online unheard."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        facts: FactsReader,
        acks: Acks,
        open_commands: OpenCommands,
        disown: Callable[[asyncpg.Connection], Awaitable[Collection[str]]],
        came_online: Callable[[str], None],
        may_take: Callable[[], Awaitable[object]],
        is_primary: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._facts = facts
        self._acks = acks
        self._open = open_commands
        self._disown = disown
        self._came_online = came_online
        self._may_take = may_take
        self._is_primary = is_primary
        self._rounds = 0
        self._looked_at = ""

    def lose(self, _reason: str) -> None:
        """Another gateway is primary now: what is open is its business."""
        self._open.clear()
        self._rounds = 0

    async def run(self) -> None:
        """Take up for ever."""
        outage = Outage("open commands", most_s=5.0)
        while True:
            if not self._is_primary():
                await self._may_take()
                self.lose("")  # also what a batch added that was in hand when we lost it
            wait_s = PERIOD_S
            try:
                while await self._acks.drain():
                    pass
                if self._rounds % EVERY == 0:
                    await self.take_up()
                await self.look_around()
                self._rounds += 1
                outage.back()
            except _AWAY as error:
                self._rounds = 0
                wait_s = outage.away(str(error) or type(error).__name__)
            await asyncio.sleep(wait_s)

    async def take_up(self) -> None:
        """What is open in the ledger is open here, and nothing else."""
        async with self._pool.acquire() as connection, ledger.transaction(connection):
            in_doubt = await self._disown(connection)
        before = {each.request_id for each in self._open}
        ids = await ledger.open_ids(self._pool)
        for request_id in before.difference(ids):
            self._open.forget(request_id)
        missing = [each for each in ids if each not in before and each not in in_doubt]
        for start in range(0, len(missing), _AT_ONCE):
            asked_at = self._open.now()
            for row in await ledger.still_open(self._pool, missing[start : start + _AT_ONCE]):
                if self._open.get(row.request_id) is None:
                    self._open.add(taken_up(row, asked_at))

    async def look_around(self) -> None:
        """A report may have told what no birth did: that a scooter is online."""
        waiting = sorted(
            {
                each.scooter_id
                for each in self._open
                if each.due == math.inf
                and COMMANDS[each.command].waits
                and each.status is CommandStatus.QUEUED
            }
        )
        start = bisect_right(waiting, self._looked_at)
        chosen = waiting[start : start + LOOKED_AT]
        self._looked_at = chosen[-1] if len(chosen) == LOOKED_AT else ""
        for scooter_id, facts in (await self._facts.read(chosen)).items():
            if not facts.is_away:
                self._came_online(scooter_id)


async def prune_commands(pool: asyncpg.Pool, *, keep_days: int) -> None:
    """Delete what is too old, in small portions, for ever."""
    outage = Outage("old commands")
    while True:
        try:
            pruned = await ledger.prune(pool, keep_days=keep_days)
            outage.back()
            await asyncio.sleep(0 if pruned else PRUNE_PERIOD_S)
        except AWAY as error:
            await asyncio.sleep(outage.away(str(error) or type(error).__name__))
