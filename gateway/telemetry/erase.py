"""Erase: where a scooter was, removed from every table, and from Redis, for a span of time."""

import asyncio
import time
from datetime import datetime
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from gateway.storage.postgres import transaction
from gateway.telemetry.history_stream import HISTORY_LIFE, START
from gateway.telemetry.snapshots import let_snapshot_end
from gateway.telemetry.state_store import CHANGES, DIRTY, HISTORY, POSITION, SCOOTER

_PAGE: Final = 1000
_POLL_S: Final = 0.1

# The version rises and the scooter is marked, so that the next snapshot follows. What `aside`
# remembers of an older boot keeps its order and loses its position.
_ERASE_STATE: Final = """
local state, positions, dirty, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local scooter_id, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function is_meant(at)
    at = tonumber(at or redis.call('HGET', state, 'received_at') or '-1')
    return at >= first and at < last
end

local gone = 0
if is_meant(redis.call('HGET', state, 'position_at')) then
    gone = redis.call('HDEL', state,
        'lat', 'lon', 'accuracy_m', 'speed_kmh', 'heading_deg', 'position_at')
end
if gone > 0 then redis.call('ZREM', positions, scooter_id) end

local aside = cjson.decode(redis.call('HGET', state, 'aside') or '{}')
local aside_changed = false
for _, groups in pairs(aside) do
    local position = groups.position
    if position and next(position.texts) and is_meant(position.at) then
        position.texts, position.at, aside_changed = {}, false, true
    end
end
if aside_changed then redis.call('HSET', state, 'aside', cjson.encode(aside)) end

if gone == 0 and not aside_changed then return {0, ''} end
local now = redis.call('TIME')
local now_us = tonumber(now[1]) * 1000000 + tonumber(now[2])
local version = math.max(tonumber(redis.call('HGET', state, 'version') or '0') + 1, now_us)
local text = string.format('%.0f', version)
redis.call('HSET', state, 'version', text)
redis.call('ZADD', dirty, 'NX', string.format('%.0f', math.floor(now_us / 1000)), scooter_id)
local none = cjson.null
local fields = gone > 0 and { lat = none, lon = none, accuracy_m = none, speed_kmh = none,
    heading_deg = none, position_at = none } or {}
fields.version = text
redis.call('PUBLISH', changes, cjson.encode({ scooter_id = scooter_id, fields = fields }))
return {1, text}
"""

# A snapshot that is being written from before the erasure must not bring the position back.
_STATE: Final = """
    UPDATE scooter_state SET
        lat = NULL, lon = NULL, accuracy_m = NULL, speed_kmh = NULL, heading_deg = NULL,
        position_at = NULL, version = greatest(version, $4),
        fields = fields
            - '{lat,lon,accuracy_m,speed_kmh,heading_deg,position_at,aside}'::text[]
    WHERE scooter_id = $1
        AND coalesce(position_at, received_at) >= $2 AND coalesce(position_at, received_at) < $3
        AND num_nonnulls(lat, lon, accuracy_m, speed_kmh, heading_deg, position_at) > 0
"""
# Reports of older boots, kept for refilling Redis; which times they are of is not worth asking.
_ASIDE: Final = """
    UPDATE scooter_state SET fields = fields - 'aside', version = greatest(version, $2)
    WHERE scooter_id = $1 AND fields ->> 'aside' LIKE '%"position"%'
"""
_TABLES: Final = {
    "scooter_snapshots": """
        UPDATE scooter_snapshots SET
            lat = NULL, lon = NULL, accuracy_m = NULL, speed_kmh = NULL, heading_deg = NULL,
            position_at = NULL
        WHERE scooter_id = $1
            AND coalesce(position_at, received_at) >= $2 AND coalesce(position_at, received_at) < $3
            AND num_nonnulls(lat, lon, accuracy_m, speed_kmh, heading_deg, position_at) > 0
    """,
    "scooter_events": """
        UPDATE scooter_events SET lat = NULL, lon = NULL
        WHERE scooter_id = $1
            AND (received_at >= $2 AND received_at < $3 OR recorded_at >= $2 AND recorded_at < $3)
            AND num_nonnulls(lat, lon) > 0
    """,
    "late_reports": """
        UPDATE late_reports SET
            lat = NULL, lon = NULL, body = body - '{lat,lon,acc,spd,hdg}'::text[]
        WHERE scooter_id = $1
            AND (received_at >= $2 AND received_at < $3 OR recorded_at >= $2 AND recorded_at < $3)
            AND (num_nonnulls(lat, lon) > 0 OR body ?| '{lat,lon,acc,spd,hdg}'::text[])
    """,
    "rejects": r"""
        UPDATE rejects SET head = ''
        WHERE scooter_id = $1 AND last_at >= $2 AND first_at < $3 AND head <> ''
    """,
}


async def erase(
    pool: asyncpg.Pool,
    redis: Redis,
    scooter_id: str,
    start: datetime,
    end: datetime,
    *,
    wait_s: float = 10.0,
) -> dict[str, int]:
    """Null the positions from `start` up to, not including, `end`; returns counts per place.

    Events and late reports count by either clock, ours or the scooter's. What still waits in
    the history stream is waited for at most `wait_s`; the count under `scooters:history` is what
    is left there: then ask again once Postgres has it. `scooter:state` is the state in Redis.
    """
    first_ms, end_ms = (str(int(at.timestamp() * 1000)) for at in (start, end))
    keys = (f"{SCOOTER}{scooter_id}", POSITION, DIRTY, CHANGES)
    erased, version = await redis.eval(_ERASE_STATE, len(keys), *keys, scooter_id, first_ms, end_ms)
    deadline = time.monotonic() + wait_s
    await let_snapshot_end(redis, scooter_id, deadline)
    waiting = await _wait_for_history(pool, redis, scooter_id, deadline)
    counts = {"scooter:state": int(erased), "scooters:history": waiting}
    async with pool.acquire() as connection, transaction(connection):
        span, before = (scooter_id, start, end), int(version or 1) - 1
        counts["scooter_state"] = _rows(await connection.execute(_STATE, *span, before))
        await connection.execute(_ASIDE, scooter_id, before)
        for table, statement in _TABLES.items():
            counts[table] = _rows(await connection.execute(statement, *span))
    return counts


async def _wait_for_history(
    pool: asyncpg.Pool, redis: Redis, scooter_id: str, deadline: float
) -> int:
    while waiting := await _count_waiting(pool, redis, scooter_id):
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(_POLL_S)
    return waiting


async def _count_waiting(pool: asyncpg.Pool, redis: Redis, scooter_id: str) -> int:
    """Entries of this scooter in the stream that Postgres has not stored yet."""
    life, cursor = await pool.fetchrow("SELECT life, last_id FROM history_cursor")
    if await redis.get(HISTORY_LIFE) != life.encode():
        cursor = START
    waiting = 0
    while page := await _page_after(redis, cursor):
        waiting += sum(fields.get(b"id") == scooter_id.encode() for _, fields in page)
        cursor = page[-1][0].decode()
    return waiting


async def _page_after(redis: Redis, cursor: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = await redis.xrange(HISTORY, min=f"({cursor}", count=_PAGE)
    return list(found)


def _rows(command_tag: str) -> int:
    return int(command_tag.rpartition(" ")[2])
