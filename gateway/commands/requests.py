"""An operator's wish becomes a recorded command, or a refusal; both before anybody is told."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import asyncpg
import orjson
import structlog

from devices.contract.commands import COMMANDS, CommandStatus, Refusal
from gateway.commands import ledger, wishes
from gateway.commands.cancelling import Rights
from gateway.commands.facts import Facts, FactsReader
from gateway.commands.ledger_rows import Move
from gateway.commands.open_commands import OpenCommands
from gateway.commands.recording import Recorded, Recorder, one_each
from gateway.commands.wishes import Asker, NoWish, Wish
from gateway.errors import GatewayError
from gateway.links.delivery import Delivery
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY

log = structlog.get_logger()

RECORD_WITHIN_S: Final = 3.0
"""After this Postgres counts as away and requests are refused."""

_RACES: Final = 3
_DOUBT_S: Final = 60.0
"""After Postgres is back, a commit that it had in hand may come through for so long."""
_REFUSE_WITHIN_S: Final = 2.0

Publish = Callable[[str, bytes, bytes | None], Awaitable[object]]
"""Sends a reply that is not recorded: topic, payload, correlation data; raises GatewayError."""


class Requests:
    """Takes requests; what it accepts is in `open_commands` when `accept` returns."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        recorder: Recorder,
        *,
        rights: Rights,
        facts: FactsReader,
        open_commands: OpenCommands,
        publish: Publish,
        replies_wanted: asyncio.Event,
        metrics: Metrics,
        by: str,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._rights = rights
        self._facts = facts
        self._open = open_commands
        self._publish = publish
        self._replies_wanted = replies_wanted
        self._metrics = metrics
        self._by = by
        self._doubtful: dict[str, float | None] = {}
        """When each was disowned first."""
        self._outage = Outage("ledger, so requests are refused")

    async def accept(self, deliveries: Sequence[Delivery]) -> list[str | None]:
        """Record each; returns the reason why one is a reject, None where it is a request.

        Raises ServerAway while the states cannot be read: bring them again. While Postgres is
        away all are refused at once, by a reply that nobody records.
        """
        read = [self._read(delivery) for delivery in deliveries]
        good = [each for each in read if isinstance(each, Wish)]
        bad = [each for each in read if isinstance(each, NoWish)]
        facts = await self._facts.read(each.request.scooter_id for each in good)
        if bad:
            await self._in_transaction(partial(self._recorder.refuse, bad=bad), refused=bad)
        rounds = one_each(good)
        while rounds and await self._record_round(rounds.pop(0), facts):
            pass
        if rounds:  # statuses and acks behind this batch shall not wait for each round's time
            rest = [each for wanted in rounds for each in wanted]
            await self._refuse_aloud([_refused(each, _UNAVAILABLE) for each in rest])
        return [each.detail if isinstance(each, NoWish) else None for each in read]

    async def disown(self, connection: asyncpg.Connection) -> frozenset[str]:
        """Refuse in the ledger too what was refused while it could not be seen.

        Nothing of it was sent: what is not in `open_commands` is not dispatched before this.
        Returns what may still be on its way into the ledger: a commit that a frozen Postgres had
        in hand comes through when it wakes up, which may be after this.
        """
        ids = list(self._doubtful)
        moves = [
            Move(
                request_id=each,
                to=CommandStatus.REFUSED,
                by=self._by,
                detail=f"{Refusal.UNAVAILABLE}: refused while the ledger was away",
                after=(CommandStatus.QUEUED, CommandStatus.SENT),
            )
            for each in ids
        ]
        await ledger.move(connection, moves)
        for each in ids:
            first = self._doubtful[each]
            if first is None:
                self._doubtful[each] = time.monotonic()
            elif time.monotonic() - first > _DOUBT_S:
                del self._doubtful[each]
        return frozenset(ids)

    async def _record_round(self, wanted: Sequence[Wish], facts: Mapping[str, Facts]) -> bool:
        """Whether the ledger is there."""
        try:
            return await self._record(wanted, facts)
        except asyncpg.DataError:  # one that Postgres cannot store must not stop the others
            return all([await self._record_alone(each, facts) for each in wanted])

    async def _record(self, wanted: Sequence[Wish], facts: Mapping[str, Facts]) -> bool:
        recorded = await self._in_transaction(
            partial(self._recorder.record, wishes=wanted, facts=facts),
            refused=[_refused(each, _UNAVAILABLE) for each in wanted],
        )
        if recorded is not None:
            self._take(recorded)
        return recorded is not None

    async def _record_alone(self, wish: Wish, facts: Mapping[str, Facts]) -> bool:
        try:
            return await self._record([wish], facts)
        except asyncpg.DataError as error:  # whose text quotes the request
            log.warning("a request cannot be stored", sqlstate=error.sqlstate)
            detail = f"{Refusal.BAD_REQUEST}: the ledger cannot store it"
            await self._refuse_aloud([_refused(wish, detail)])
            return True

    def _read(self, delivery: Delivery) -> Wish | NoWish:
        wish = wishes.read(delivery)
        if isinstance(wish, Wish) and self._rights.operator_of(wish.asker.login) is None:
            detail = f"{Refusal.NO_RIGHT}: {wish.asker.login} is no active key of an operator"
            return NoWish(asker=wish.asker, detail=detail, said=wishes.said_of(wish.request))
        return wish

    async def _in_transaction(
        self,
        work: Callable[[asyncpg.Connection], Awaitable[Any]],
        *,
        refused: Sequence[NoWish],
    ) -> Any:  # noqa: ANN401 - what `work` returns
        """What `work` returned, committed; None when Postgres is away and `refused` were told."""
        result = None
        try:
            async with asyncio.timeout(RECORD_WITHIN_S):
                for attempt in range(_RACES):
                    try:
                        async with (
                            self._pool.acquire() as connection,
                            ledger.transaction(connection),
                        ):
                            result = None
                            result = await work(connection)
                        break
                    except asyncpg.UniqueViolationError:  # another gateway was faster
                        if attempt == _RACES - 1:
                            raise
        except AWAY as error:
            self._outage.away(str(error) or type(error).__name__)
            if isinstance(result, Recorded):  # the commit may have come through
                self._doubtful |= {each.request_id: None for each in result.opened}
            await self._refuse_aloud(refused)
            return None
        self._outage.back()
        self._replies_wanted.set()
        return result

    def _take(self, recorded: Recorded) -> None:
        for moved in recorded.moved:
            self._open.forget(moved.request_id)
            self._count(moved.command, moved.status)
        for opened in recorded.opened:
            self._open.add(opened)
        for command, status in recorded.begun:
            self._count(command, status)

    def _count(self, command: str, status: CommandStatus) -> None:
        label = command if command in COMMANDS else "other"
        self._metrics.commands.labels(command=label, status=status).inc()

    async def _refuse_aloud(self, refused: Sequence[NoWish]) -> None:
        """Nobody records these; whoever does not hear it asks again with the same `ref`."""
        now_ms = time.time_ns() // 1_000_000
        try:
            async with asyncio.timeout(_REFUSE_WITHIN_S), asyncio.TaskGroup() as group:
                for each in refused:
                    if each.asker is not None:
                        body = wishes.refusal(each.said, each.detail, now_ms=now_ms)
                        group.create_task(self._tell(each.asker, orjson.dumps(body)))
        except TimeoutError:
            log.warning("refusals not told: the broker does not answer")

    async def _tell(self, asker: Asker, payload: bytes) -> None:
        try:
            await self._publish(asker.topic, payload, asker.correlation)
        except GatewayError as error:
            log.warning("refusal not told", reason=str(error))


_UNAVAILABLE: Final = (
    f"{Refusal.UNAVAILABLE}: commands cannot be recorded now, so none is carried out"
)


def _refused(wish: Wish, detail: str) -> NoWish:
    return NoWish(asker=wish.asker, detail=detail, said=wishes.said_of(wish.request))
