"""Forget: the latest state of a scooter that is retired, removed; its history stays."""

import time
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from gateway.telemetry.reader import postgres_translated
from gateway.telemetry.snapshots import let_snapshot_end
from gateway.telemetry.state_store import (
    CHANGES,
    CLAIMS,
    DEADLINES,
    DIRTY,
    LAST_SEEN,
    POSITION,
    SCOOTER,
    redis_translated,
)

_ROW: Final = "DELETE FROM scooter_state WHERE scooter_id = $1"

# Live views are told that every field is gone.
_FORGET: Final = """
local state, changes = KEYS[1], KEYS[2]
local fields = {}
if redis.call('TYPE', state).ok == 'hash' then
    for _, name in ipairs(redis.call('HKEYS', state)) do
        if name ~= 'internal' and name ~= 'aside' and not string.find(name, '_order$') then
            fields[name] = cjson.null
        end
    end
end
local removed = redis.call('DEL', state)
for index = 3, #KEYS do removed = removed + redis.call('ZREM', KEYS[index], ARGV[1]) end
if next(fields) then
    redis.call('PUBLISH', changes, cjson.encode({ scooter_id = ARGV[1], fields = fields }))
end
return removed
"""


async def forget_state(redis: Redis, scooter_id: str) -> int:
    """Remove a scooter's state and marks; returns how many there were. May be repeated.

    Raises ServerAway. A snapshot that is being written keeps its claim: see `forget_row`.
    """
    keys = (f"{SCOOTER}{scooter_id}", CHANGES, DIRTY, LAST_SEEN, DEADLINES, POSITION)
    with redis_translated():
        removed: Any = await redis.eval(_FORGET, len(keys), *keys, scooter_id)
    return int(removed)


async def forget_row(
    pool: asyncpg.Pool, redis: Redis, scooter_id: str, *, wait_s: float = 10.0
) -> int:
    """Remove the row from which Redis would be refilled; after `forget_state`.

    Waits until a snapshot that was begun before is written, at most `wait_s`. Raises ServerAway.
    """
    deadline = time.monotonic() + wait_s
    with redis_translated():
        await let_snapshot_end(redis, scooter_id, deadline)
        await redis.hdel(CLAIMS, scooter_id)
    with postgres_translated():
        done: str = await pool.execute(_ROW, scooter_id)
    return int(done.rpartition(" ")[2])
