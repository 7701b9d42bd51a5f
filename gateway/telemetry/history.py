"""History: events, late reports and rejects, from the Redis stream into Postgres, exactly once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY as POSTGRES_AWAY
from gateway.storage.postgres import transaction
from gateway.storage.redis import is_away
from gateway.telemetry.history_entries import Event, LateReport, Reject, Row
from gateway.telemetry.history_rows import store
from gateway.telemetry.history_stream import START, HistoryStream

log = structlog.get_logger()

SendReceipts = Callable[[str, list[str]], Awaitable[None]]
"""Tells a scooter which event ids are stored; raises GatewayError, OSError or TimeoutError."""

Step = Callable[[str], Awaitable[None]]
"""Told after each step of a round: read, stored, committed, receipted, trimmed."""

_AWAY: Final[tuple[type[BaseException], ...]] = (*POSTGRES_AWAY, RedisError)
_RECEIPTS_S: Final = 2.0

# Whoever has the row drains; another gateway waits here and goes on where this one ended.
_LOCK_CURSOR: Final = "SELECT life, last_id FROM history_cursor FOR UPDATE"
_MOVE_CURSOR: Final = "UPDATE history_cursor SET life = $1, last_id = $2, moved_at = now()"


async def _no_step(_name: str) -> None:
    pass


async def _at_once() -> None:
    pass


async def drain(
    redis: Redis,
    pool: asyncpg.Pool,
    *,
    send_receipts: SendReceipts,
    metrics: Metrics,
    may_take: Callable[[], Awaitable[object]] = _at_once,
    step: Step = _no_step,
) -> None:
    """Take the stream into Postgres for ever; several gateways may do so at once.

    A server that is away is waited for, with nothing lost and nothing stored twice.
    """
    history = History(redis, pool, send_receipts=send_receipts, metrics=metrics, step=step)
    outage = Outage("history")
    while True:
        try:
            await may_take()
            if await history.wait():
                await may_take()
                await history.take()
            outage.back()
        except _AWAY as error:
            if isinstance(error, RedisError) and not is_away(error):
                raise
            await asyncio.sleep(outage.away(f"{type(error).__name__}: {error}"))


class History:
    """One gateway's way from the stream to Postgres, a page at a time."""

    def __init__(
        self,
        redis: Redis,
        pool: asyncpg.Pool,
        *,
        send_receipts: SendReceipts,
        metrics: Metrics,
        step: Step = _no_step,
        page: int = 1000,
    ) -> None:
        self._stream = HistoryStream(redis, page=page)
        self._pool = pool
        self._send_receipts = send_receipts
        self._metrics = metrics
        self._step = step
        self._cursor = START
        self._receipts = Outage("receipts")

    async def wait(self) -> bool:
        """Whether there is something to take: within milliseconds of its arrival, else in 1 s."""
        await self._stream.measure(self._metrics)
        return await self._stream.wait(self._cursor)

    async def take(self) -> int:
        """Store one page, send its receipts, trim it; returns the number of entries."""
        life, rows = await self._commit_page()
        await self._step("committed")
        await self._tell(rows)
        await self._step("receipted")
        await self._stream.trim(life=life, cursor=self._cursor)
        await self._step("trimmed")
        await self._stream.measure(self._metrics)
        return len(rows)

    async def _commit_page(self) -> tuple[str, list[Row]]:
        async with self._pool.acquire() as connection, transaction(connection):
            life, cursor = await connection.fetchrow(_LOCK_CURSOR)
            page = await self._stream.after(life=life, cursor=cursor)
            await self._step("read")
            rows = await store(connection, page.entries) if page.entries else []
            if rows:
                await connection.execute(_MOVE_CURSOR, page.life, page.cursor)
            await self._step("stored")
        self._cursor = page.cursor
        for kind, number in _kinds(rows).items():
            self._metrics.history_rows.labels(kind).inc(number)
        return page.life, rows

    async def _tell(self, rows: Sequence[Row]) -> None:
        """Receipts are repeated when the scooter sends again, so a lost one is only noted."""
        stored: dict[str, dict[str, None]] = {}
        for row in rows:
            if not isinstance(row, LateReport) and row.scooter_id and row.receipt:
                stored.setdefault(row.scooter_id, {})[row.receipt] = None
        try:
            async with asyncio.timeout(_RECEIPTS_S):
                for scooter_id, event_ids in stored.items():
                    await self._send_receipts(scooter_id, list(event_ids))
                    self._metrics.receipts.inc(len(event_ids))
        except (GatewayError, OSError, TimeoutError) as error:
            self._receipts.away(f"{type(error).__name__}: {error}")
        else:
            if stored:
                self._receipts.back()


def _kinds(rows: Sequence[Row]) -> dict[str, int]:
    counts = {"event": 0, "late": 0, "reject": 0}
    for row in rows:
        match row:
            case Event():
                counts["event"] += 1
            case LateReport():
                counts["late"] += 1
            case Reject():
                counts["reject"] += 1
    return counts
