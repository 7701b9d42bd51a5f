"""Questions to the ledger, for people: list, show and follow commands."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from devices.contract.commands import CommandStatus

_COLUMNS: Final = """
    issued, request_id, operator, login, ref, scooter_id, command, params, ttl_s, requested_at,
    received_at, expires_at, reason, force, status, detail, moves, moved_at, sends
"""
_MATCHES: Final = """
    ($1::text[] = '{}' OR c.scooter_id = ANY ($1)) AND ($2::text[] = '{}' OR c.operator = ANY ($2))
    AND ($3::text[] = '{}' OR c.command = ANY ($3)) AND ($4::text[] = '{}' OR c.status = ANY ($4))
"""
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM commands c
    WHERE {_MATCHES} AND ($5::timestamptz IS NULL OR received_at >= $5)
        AND ($6::timestamptz IS NULL OR received_at < $6)
        AND ($7::bigint IS NULL OR issued < $7)
    ORDER BY issued DESC LIMIT $8
"""  # noqa: S608 - our own text
_SHOW: Final = f"SELECT {_COLUMNS} FROM commands c WHERE request_id = $1"  # noqa: S608
_MOVE_COLUMNS: Final = """
    m.move_id, m.request_id, m.number, m.at, m.status, m.detail, m.done_by, m.evidence
"""
_MOVES: Final = f"""
    SELECT {_MOVE_COLUMNS} FROM command_moves m WHERE request_id = $1 ORDER BY number
"""  # noqa: S608
_MOVES_SINCE: Final = f"""
    SELECT {_MOVE_COLUMNS}, c.scooter_id, c.command, c.operator, c.ref
    FROM command_moves m JOIN commands c USING (request_id)
    WHERE {_MATCHES} AND m.at >= $5 ORDER BY m.move_id
"""  # noqa: S608

_OVERLAP: Final = timedelta(seconds=15)
"""A move may become visible this long after its time: a transaction ends within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which commands; what is empty matches any. `statuses` are those of now."""

    scooter_ids: Sequence[str] = ()
    operators: Sequence[str] = ()
    commands: Sequence[str] = ()
    statuses: Sequence[CommandStatus] = ()

    def arguments(self) -> tuple[list[str], ...]:
        wanted = (self.scooter_ids, self.operators, self.commands, self.statuses)
        return tuple([str(each) for each in words] for words in wanted)


class LedgerCommand(NamedTuple):
    """A command as it stands. Times are UTC; `received_at` and `expires_at` by Postgres' clock."""

    issued: int
    request_id: str
    operator: str
    login: str
    ref: str
    scooter_id: str
    command: str
    params: dict[str, Any]
    ttl_s: float
    requested_at: datetime
    received_at: datetime
    expires_at: datetime
    reason: str | None
    force: bool
    status: CommandStatus
    detail: str | None
    moves: int
    moved_at: datetime
    sends: int


class LedgerMove(NamedTuple):
    """One move: who (`done_by`), when, to what, why (`detail`), and by what evidence."""

    move_id: int
    request_id: str
    number: int
    at: datetime
    status: CommandStatus
    detail: str | None
    done_by: str
    evidence: dict[str, Any]


class FollowedMove(NamedTuple):
    """A move, and of which command it is."""

    move: LedgerMove
    scooter_id: str
    command: str
    operator: str
    ref: str


async def list_commands(
    pool: asyncpg.Pool,
    wanted: Filter,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    older_than: int | None = None,
    at_most: int = 100,
) -> list[LedgerCommand]:
    """Newest first; `older_than` is the `issued` of the last one of the page before."""
    rows = await pool.fetch(_LIST, *wanted.arguments(), since, until, older_than, at_most)
    return [_command(row) for row in rows]


async def show_command(
    pool: asyncpg.Pool, request_id: str
) -> tuple[LedgerCommand, list[LedgerMove]] | None:
    """A command with its moves in order; None when the ledger has none of that id."""
    row = await pool.fetchrow(_SHOW, request_id)
    if row is None:
        return None
    return _command(row), [_move(each) for each in await pool.fetch(_MOVES, request_id)]


async def follow_moves(
    pool: asyncpg.Pool, wanted: Filter, *, since: datetime | None = None, every_s: float = 0.5
) -> AsyncIterator[FollowedMove]:
    """Every move from `since` (now) on, each once, for ever; of one command in order."""
    told: dict[int, datetime] = {}
    begin = since or await pool.fetchval("SELECT clock_timestamp()")
    look_from = begin
    while True:
        for row in await pool.fetch(_MOVES_SINCE, *wanted.arguments(), look_from):
            if row["move_id"] in told:
                continue
            told[row["move_id"]] = row["at"]
            yield FollowedMove(
                _move(row), row["scooter_id"], row["command"], row["operator"], row["ref"]
            )
        now = await pool.fetchval("SELECT clock_timestamp()")
        look_from = max(begin, now - _OVERLAP)
        told = {move_id: at for move_id, at in told.items() if at >= look_from}
        await asyncio.sleep(every_s)


def _command(row: asyncpg.Record) -> LedgerCommand:
    values = dict(row)
    values["params"] = orjson.loads(values["params"])
    values["status"] = CommandStatus(values["status"])
    return LedgerCommand(**values)


def _move(row: asyncpg.Record) -> LedgerMove:
    values = {name: row[name] for name in LedgerMove._fields}
    values["evidence"] = orjson.loads(values["evidence"])
    values["status"] = CommandStatus(values["status"])
    return LedgerMove(**values)
