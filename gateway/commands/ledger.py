"""Every command and every move, in Postgres: written here, each with its replies, at once.

A move compares the status it finds with those it may follow, so that two gateways, an ack that
comes twice or a deadline that races an answer change nothing twice.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from devices.contract.commands import CommandStatus
from gateway.commands.ledger_rows import Known, Move, Moved, NewCommand, StillOpen
from gateway.commands.lifecycle import before
from gateway.storage import postgres

IDLE_S: Final = 7.0
"""So long a gateway that froze in a transaction keeps its rows from its successor; longer than a
PUBACK is waited for in one.
"""

_REPLY: Final = """
    json_strip_nulls(json_build_object(
        'ref', c.ref, 'request_id', c.request_id, 'scooter_id', c.scooter_id,
        'command', c.command, 'status', m.status,
        'at', (extract(epoch FROM m.at) * 1000)::bigint, 'move', m.number, 'detail', m.detail))
"""
_TOPIC: Final = "coalesce(c.response_topic, 'operators/' || c.login || '/replies')"

_NUMBERS: Final = """
    INSERT INTO command_numbers AS k (scooter_id, n)
    SELECT scooter_id, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM unnest($1::text[]) AS u (scooter_id) ORDER BY scooter_id
    ON CONFLICT (scooter_id) DO UPDATE SET n = greatest(k.n + 1, EXCLUDED.n)
    RETURNING scooter_id, n
"""
_RECORD: Final = f"""
    WITH w AS (
        SELECT * FROM jsonb_to_recordset($1::jsonb) AS w (
            request_id text, operator text, login text, ref text, content text, scooter_id text,
            command text, actuator text, params jsonb, ttl_s float8, requested_ms float8,
            received_ms float8, expires_ms float8, reason text, force boolean, status text,
            detail text, n bigint, boot bigint, exp bigint, next_send_s float8, lock_order text,
            correlation text, response_topic text, evidence jsonb)
    ), c AS (
        INSERT INTO commands (
            request_id, operator, login, ref, content, scooter_id, command, actuator, params,
            ttl_s, requested_at, received_at, expires_at, reason, force, status, detail, moved_at,
            n, boot, exp, sends, next_send_at, lock_order, correlation, response_topic)
        SELECT request_id, operator, login, ref, decode(content, 'hex'), scooter_id, command,
            actuator, params, ttl_s, to_timestamp(requested_ms / 1000),
            to_timestamp(received_ms / 1000), to_timestamp(expires_ms / 1000), reason, force,
            status, detail, clock_timestamp(), n, boot, exp, (n IS NOT NULL)::int,
            clock_timestamp() + next_send_s * interval '1 second', lock_order,
            decode(correlation, 'hex'), response_topic
        FROM w
        RETURNING *
    ), m AS (
        INSERT INTO command_moves (request_id, number, at, status, detail, done_by, evidence)
        SELECT request_id, 1, c.moved_at, c.status, c.detail, c.login,
            w.evidence
        FROM c JOIN w USING (request_id)
        RETURNING *
    )
    INSERT INTO command_replies (topic, correlation, body)
    SELECT {_TOPIC}, c.correlation, {_REPLY} FROM c JOIN m USING (request_id) ORDER BY c.issued
"""  # noqa: S608 - our own text
_MOVE: Final = f"""
    WITH w AS (
        SELECT * FROM jsonb_to_recordset($1::jsonb) AS w (
            request_id text, after text[], status text, detail text, done_by text, evidence jsonb,
            if_sends int, n bigint, boot bigint, exp bigint, next_send_s float8, lock_order text,
            last_error text)
    ), c AS (
        UPDATE commands AS c SET
            status = w.status, detail = w.detail, moves = c.moves + 1,
            moved_at = clock_timestamp(), n = coalesce(w.n, c.n),
            boot = CASE WHEN w.n IS NULL THEN c.boot ELSE w.boot END,
            exp = CASE WHEN w.n IS NULL THEN c.exp ELSE w.exp END,
            sends = c.sends + (w.n IS NOT NULL)::int,
            next_send_at = clock_timestamp() + w.next_send_s * interval '1 second',
            lock_order = coalesce(c.lock_order, w.lock_order), last_error = w.last_error
        FROM w
        WHERE c.request_id = w.request_id AND c.status = ANY (w.after)
            AND (w.if_sends IS NULL OR c.sends = w.if_sends)
        RETURNING c.*, w.done_by, w.evidence
    ), m AS (
        INSERT INTO command_moves (request_id, number, at, status, detail, done_by, evidence)
        SELECT request_id, moves, moved_at, status, detail, done_by, evidence FROM c
        RETURNING *
    ), told AS (
        INSERT INTO command_replies (topic, correlation, body)
        SELECT {_TOPIC}, c.correlation, {_REPLY} FROM c JOIN m USING (request_id)
    )
    SELECT request_id, scooter_id, command, status, sends FROM c
"""  # noqa: S608 - our own text
_AGAIN: Final = f"""
    WITH c AS (
        UPDATE commands SET correlation = $2, response_topic = $3 WHERE request_id = $1
        RETURNING *
    )
    INSERT INTO command_replies (topic, correlation, body)
    SELECT {_TOPIC}, c.correlation, {_REPLY} FROM c JOIN command_moves m USING (request_id)
    ORDER BY m.number
"""  # noqa: S608 - our own text
_REPLY_ALONE: Final = """
    INSERT INTO command_replies (topic, correlation, body) VALUES ($1, $2, $3::json)
"""
_BEFORE: Final = """
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms, (
        SELECT json_agg(json_build_array(c.login, c.ref, encode(c.content, 'hex'), c.request_id))
        FROM commands c JOIN unnest($1::text[], $2::text[]) AS u (login, ref) USING (login, ref)
    ) AS refs, (
        SELECT json_agg(json_build_array(c.request_id, c.scooter_id, c.actuator))
        FROM commands c
        WHERE c.scooter_id = ANY ($3::text[]) AND c.status IN ('queued', 'sent', 'received')
    ) AS still_open
"""
_KNOWN: Final = """
    SELECT request_id, scooter_id, operator, command, status, sends, boot, last_error,
        extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_s
    FROM commands WHERE request_id = ANY ($1::text[])
"""
_OPEN_IDS: Final = """
    SELECT array_agg(request_id ORDER BY issued) FROM commands
    WHERE status IN ('queued', 'sent', 'received')
"""
# A server that took over with a clock behind must not make more time than there ever was.
_OPEN: Final = """
    SELECT request_id, scooter_id, command, login, params, status, sends, boot, exp, last_error,
        least(extract(epoch FROM expires_at - clock_timestamp()), ttl_s)::float8 AS left_s,
        extract(epoch FROM next_send_at - clock_timestamp())::float8 AS next_send_s
    FROM commands WHERE request_id = ANY ($1::text[])
        AND status IN ('queued', 'sent', 'received') ORDER BY issued
"""
# Whoever moves several takes them in one order, so that two never wait for each other.
_LOCK: Final = """
    SELECT FROM commands WHERE request_id = ANY ($1::text[])
    ORDER BY request_id FOR NO KEY UPDATE
"""
_PRUNE: Final = """
    DELETE FROM commands WHERE request_id = ANY (ARRAY(
        SELECT request_id FROM commands
        WHERE received_at < now() - $1 * interval '1 day'
            AND status NOT IN ('queued', 'sent', 'received')
        ORDER BY received_at LIMIT 1000
    ))
"""


def transaction(connection: asyncpg.Connection) -> AbstractAsyncContextManager[None]:
    """One in which commands are written."""
    return postgres.transaction(connection, idle_s=IDLE_S)


async def now_ms(connection: asyncpg.Connection) -> int:
    """The time by which everything here is judged."""
    return int(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000"))


async def numbers(connection: asyncpg.Connection, scooter_ids: Sequence[str]) -> dict[str, int]:
    """A fresh issue number for each; until the transaction ends nobody else gets one for them."""
    return {row[0]: row[1] for row in await connection.fetch(_NUMBERS, sorted(set(scooter_ids)))}


class Before(NamedTuple):
    """What requests find: the ledger's clock; by login and ref what exists already (its content
    as hex, and request_id); the open commands of their scooters by scooter and actuator.
    """

    now_ms: int
    refs: dict[tuple[str, str], tuple[str, str]]
    still_open: dict[tuple[str, str], str]


async def before_requests(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str]], scooter_ids: Sequence[str]
) -> Before:
    """`keys` are login and ref of each."""
    logins, refs = [key[0] for key in keys], [key[1] for key in keys]
    row = await connection.fetchrow(_BEFORE, logins, refs, list(scooter_ids))
    return Before(
        row["now_ms"],
        {(each[0], each[1]): (each[2], each[3]) for each in orjson.loads(row["refs"] or "[]")},
        {(each[1], each[2]): each[0] for each in orjson.loads(row["still_open"] or "[]")},
    )


async def record(connection: asyncpg.Connection, commands: Sequence[NewCommand]) -> None:
    """Write new commands with their first move and its reply.

    Raises UniqueViolationError when somebody recorded the same `ref`, or another open command for
    the same actuator, a moment ago: begin anew.
    """
    if commands:
        await connection.execute(_RECORD, _json([_flat(each) for each in commands]))


async def move(connection: asyncpg.Connection, moves: Sequence[Move]) -> list[Moved]:
    """Make each move that is legal now, and return those; at most one a command in a call."""
    if not moves:
        return []
    if len(moves) > 1:
        await connection.execute(_LOCK, [each.request_id for each in moves])
    wishes = [
        _flat(each) | {"after": list(each.after or before(each.to)), "done_by": each.by}
        for each in moves
    ]
    return [
        Moved(row[0], row[1], row[2], CommandStatus(row[3]), row[4])
        for row in await connection.fetch(_MOVE, _json(wishes))
    ]


async def tell_again(
    connection: asyncpg.Connection,
    request_id: str,
    *,
    correlation: bytes | None,
    response_topic: str | None,
) -> None:
    """Tell the whole story of a command once more, to whoever asked for it again."""
    await connection.execute(_AGAIN, request_id, correlation, response_topic)


async def tell(
    connection: asyncpg.Connection, topic: str, correlation: bytes | None, body: Mapping[str, Any]
) -> None:
    """A reply that belongs to no command."""
    await connection.execute(_REPLY_ALONE, topic, correlation, _json(body))


async def known(
    connection: asyncpg.Connection | asyncpg.Pool, request_ids: Sequence[str]
) -> dict[str, Known]:
    """The commands of these ids, as far as there are any."""
    rows = await connection.fetch(_KNOWN, list(request_ids))
    return {row[0]: Known(**{**row, "status": CommandStatus(row["status"])}) for row in rows}


async def open_ids(connection: asyncpg.Connection | asyncpg.Pool) -> list[str]:
    """Every open command in the order of issue."""
    return await connection.fetchval(_OPEN_IDS) or []


async def still_open(
    connection: asyncpg.Connection | asyncpg.Pool, request_ids: Sequence[str]
) -> list[StillOpen]:
    """Those of them that are open, in the order of issue."""
    return [
        StillOpen(
            **{
                **row,
                "params": orjson.loads(row["params"]),
                "status": CommandStatus(row["status"]),
            }
        )
        for row in await connection.fetch(_OPEN, list(request_ids))
    ]


async def prune(connection: asyncpg.Connection | asyncpg.Pool, *, keep_days: int) -> int:
    """Delete some closed commands that are older than `keep_days`; 0 when none is left."""
    return int((await connection.execute(_PRUNE, keep_days)).split()[1])


def _flat(each: NewCommand | Move) -> dict[str, Any]:
    flat = asdict(each)
    sending = flat.pop("sending")
    return flat | {"status": flat.pop("to", flat.get("status"))} | (sending or {})


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
