"""What nobody answered, also after a restart; and what the scooter's lock tells afterwards."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg
import structlog

from devices.contract.commands import CommandStatus
from gateway.commands import ledger
from gateway.commands.facts import FactsReader
from gateway.commands.ledger_rows import Move, Moved
from gateway.commands.lifecycle import ran_out
from gateway.commands.open_commands import OpenCommand, OpenCommands
from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY

log = structlog.get_logger()

PERIOD_S: Final = 0.25
EVIDENCE_PERIOD_S: Final = 2.0

GRACE_S: Final = 3.0
"""After its time is up, a command's answer may still be on its way: so long it stays open."""

_AT_ONCE: Final = 500
_AWAY: Final[tuple[type[BaseException], ...]] = (ServerAway, *AWAY)

_WANTED: Final = {"lock": "locked", "unlock": "unlocked"}

# What a later command did to the lock is no evidence for an earlier one.
_UNKNOWN: Final = """
    SELECT request_id, scooter_id, command, lock_order,
        floor(extract(epoch FROM received_at) * 1000)::bigint AS received_ms
    FROM commands AS c
    WHERE status = 'timed_out' AND command IN ('lock', 'unlock')
        AND moved_at > clock_timestamp() - interval '1 day'
        AND NOT EXISTS (
            SELECT FROM commands AS later WHERE later.scooter_id = c.scooter_id
                AND later.issued > c.issued AND later.actuator = c.actuator
                AND later.status <> 'refused')
    ORDER BY moved_at DESC LIMIT 1000
"""


class Overdue:
    """Closes commands whose time is up, by this process's clock."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        facts: FactsReader,
        open_commands: OpenCommands,
        may_close: Callable[[], Awaitable[object]],
        replies_wanted: asyncio.Event,
        metrics: Metrics,
        by: str,
    ) -> None:
        self._pool = pool
        self._facts = facts
        self._open = open_commands
        self._may_close = may_close
        self._replies_wanted = replies_wanted
        self._metrics = metrics
        self._by = by
        metrics.commands_open.set_function(lambda: len(open_commands))

    async def run(self) -> None:
        """Close what is overdue, for ever."""
        await self._repeat(self.close, every_s=PERIOD_S, what="overdue commands")

    async def watch_evidence(self) -> None:
        """Resolve what timed out by newer telemetry of the lock, for ever."""
        await self._repeat(self.resolve, every_s=EVIDENCE_PERIOD_S, what="evidence of commands")

    async def close(self) -> int:
        """Close what is overdue now; returns how many."""
        overdue = self._open.overdue(grace_s=GRACE_S)[:_AT_ONCE]
        if not overdue:
            return 0
        moved = await self._move([self._ended(each) for each in overdue])
        for each in overdue:
            self._open.forget(each.request_id)  # what did not move was closed by somebody else
        return len(moved)

    async def resolve(self) -> int:
        """Resolve now what can be; returns how many."""
        rows = await self._pool.fetch(_UNKNOWN)
        facts = await self._facts.read(row["scooter_id"] for row in rows)
        moves = []
        for row in rows:
            known = facts[row["scooter_id"]]
            lock, order = known.lock, known.lock_order
            # Measured since it was asked for: a batch, or a Redis that was refilled, brings what is
            # other than at the send and yet older.
            is_since = known.lock_at is not None and known.lock_at >= row["received_ms"]
            is_newer = is_since and order is not None and order != row["lock_order"]
            if is_newer and lock == _WANTED[row["command"]]:
                moves.append(
                    Move(
                        request_id=row["request_id"],
                        to=CommandStatus.SUCCEEDED,
                        by=self._by,
                        detail="telemetry: the lock is as commanded",
                        evidence={"lock": lock, "lock_order": order},
                        after=(CommandStatus.TIMED_OUT,),
                    )
                )
        return len(await self._move(moves))

    def _ended(self, command: OpenCommand) -> Move:
        to = ran_out(command.status, has_left=command.has_left, last_error=command.last_error)
        return Move(
            request_id=command.request_id,
            to=to,
            by=self._by,
            detail=_detail(command, to),
            evidence={"sends": command.sends},
            after=(command.status,),
        )

    async def _move(self, moves: Sequence[Move]) -> list[Moved]:
        if not moves:
            return []
        async with self._pool.acquire() as connection, ledger.transaction(connection):
            moved = await ledger.move(connection, moves)
        self._replies_wanted.set()
        for each in moved:
            self._metrics.commands.labels(command=each.command, status=each.status).inc()
        return moved

    async def _repeat(
        self, work: Callable[[], Awaitable[int]], *, every_s: float, what: str
    ) -> None:
        outage = Outage(what, most_s=5.0)
        while True:
            await self._may_close()
            wait_s = every_s
            try:
                await work()
                outage.back()
            except _AWAY as error:
                wait_s = outage.away(str(error) or type(error).__name__)
            await asyncio.sleep(wait_s)


def _detail(command: OpenCommand, to: CommandStatus) -> str:
    if to is CommandStatus.EXPIRED:
        waited = command.status is CommandStatus.QUEUED
        return "expired: the scooter was away" if waited else "expired: it never left"
    if to is CommandStatus.REJECTED:
        return f"{command.last_error}: until its time was up"
    return "timed_out: nobody knows whether it was carried out"
