"""Reading the ledger for a person: commands, their moves, and what moved since."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

COLUMNS: Final = (
    *("request_id", "scooter_id", "command", "params", "status", "detail", "operator", "login"),
    *("ref", "reason", "force", "ttl_s", "requested_at", "received_at", "expires_at", "moved_at"),
    *("sends", "moves"),
)

_WANTED: Final = """
    ($1::text IS NULL OR c.scooter_id = $1) AND ($2::text IS NULL OR c.operator = $2)
    AND ($3::text[] IS NULL OR c.status = ANY ($3)) AND ($4::text IS NULL OR c.command = $4)
"""
_SPANNED: Final = f"{_WANTED} AND c.received_at >= $5 AND c.received_at < $6"
_NEWER_THAN: Final = f"""
    CASE WHEN $7::bigint IS NULL THEN 0 ELSE coalesce((
        SELECT c.issued FROM commands c WHERE {_SPANNED} ORDER BY c.issued DESC OFFSET $7 LIMIT 1
    ), 0) END
"""  # noqa: S608 - our own text
_COMMANDS: Final = f"""
    SELECT {", ".join(COLUMNS)} FROM commands c
    WHERE {_SPANNED} AND c.issued > {_NEWER_THAN}
    ORDER BY c.issued
"""  # noqa: S608
_COUNT: Final = f"SELECT count(*) FROM commands c WHERE {_SPANNED}"  # noqa: S608
_COMMAND: Final = f"SELECT {', '.join(COLUMNS)} FROM commands WHERE request_id = $1"  # noqa: S608
_MOVES: Final = """
    SELECT number, at, status, detail, done_by, evidence FROM command_moves
    WHERE request_id = $1 ORDER BY number
"""
_NEWEST: Final = "SELECT coalesce(max(issued), 0) FROM commands"
# What timed out may be resolved late.
_OPEN: Final = """
    SELECT request_id, moves FROM commands WHERE status IN ('queued', 'sent', 'received')
    UNION ALL
    SELECT request_id, moves FROM commands
    WHERE status = 'timed_out' AND moved_at > now() - interval '1 hour'
    UNION ALL
    SELECT request_id, moves FROM commands WHERE issued > $1
"""
_SINCE: Final = f"""
    SELECT c.request_id, c.issued, c.scooter_id, c.command, c.operator, c.login, c.status AS stands,
        m.number, m.at, m.status, m.detail, m.done_by
    FROM commands c JOIN command_moves m USING (request_id)
    WHERE (c.issued > $5 OR c.request_id = ANY ($6::text[])) AND {_WANTED}
    ORDER BY m.at, c.issued, m.number
"""  # noqa: S608 - our own text

_OVERLAP: Final = 200
"""Commands are issued in another order than they are committed in: so many are read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which commands; None for any."""

    scooter_id: str | None = None
    operator: str | None = None
    statuses: Sequence[str] | None = None
    command: str | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        statuses = list(self.statuses) if self.statuses else None
        return self.scooter_id, self.operator, statuses, self.command


async def commands(
    pool: asyncpg.Pool,
    wanted: Wanted,
    *,
    since: datetime,
    until: datetime,
    limit: int | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """The newest `limit` recorded in the span (`until` is not in it), oldest first."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        values = (*wanted.arguments, since, until, limit)
        found = connection.cursor(_COMMANDS, *values, prefetch=1000)
        async for record in found:
            yield _typed(record, "params")


async def count(pool: asyncpg.Pool, wanted: Wanted, *, since: datetime, until: datetime) -> int:
    """How many were recorded in the span."""
    return int(await pool.fetchval(_COUNT, *wanted.arguments, since, until))


async def command(pool: asyncpg.Pool, request_id: str) -> dict[str, Any] | None:
    """One command as it stands."""
    record = await pool.fetchrow(_COMMAND, request_id)
    return None if record is None else _typed(record, "params")


async def moves(pool: asyncpg.Pool, request_id: str) -> list[dict[str, Any]]:
    """How it came there, with the evidence of each move."""
    return [_typed(record, "evidence") for record in await pool.fetch(_MOVES, request_id)]


class Follower:
    """Tells each move once, from the moment of `start` on."""

    def __init__(self, pool: asyncpg.Pool, wanted: Wanted) -> None:
        self._pool = pool
        self._wanted = wanted
        self._newest = 0
        self._told: dict[str, tuple[int, int, bool]] = {}
        """By request_id: its issue, the last move told, whether more may come."""

    async def start(self) -> None:
        """What moved until now is not told."""
        self._newest = int(await self._pool.fetchval(_NEWEST))
        rows = await self._pool.fetch(_OPEN, self._newest - _OVERLAP)
        self._told = {row["request_id"]: (self._newest, row["moves"], True) for row in rows}

    async def news(self) -> list[dict[str, Any]]:
        """The moves since the last call, oldest first."""
        ids = [name for name, (_, _, may_move) in self._told.items() if may_move]
        rows = await self._pool.fetch(_SINCE, *self._wanted.arguments, self._newest - _OVERLAP, ids)
        news = []
        for row in rows:
            request_id, number = row["request_id"], row["number"]
            _, last, _ = self._told.get(request_id, (0, 0, True))
            if number > last:
                news.append({name: row[name] for name in row.keys() if name != "stands"})  # noqa: SIM118
            may_move = row["stands"] in ("queued", "sent", "received", "timed_out")
            self._told[request_id] = (row["issued"], max(number, last), may_move)
            self._newest = max(self._newest, row["issued"])
        self._told = {
            name: told
            for name, told in self._told.items()
            if told[2] or told[0] > self._newest - _OVERLAP
        }
        return news


def _typed(record: asyncpg.Record, document: str) -> dict[str, Any]:
    row = dict(record)
    row[document] = orjson.loads(row[document])
    return row
