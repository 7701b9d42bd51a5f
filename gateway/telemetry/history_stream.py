"""The history stream in Redis: wait for it, read from the cursor, trim what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis

from gateway.metrics import Metrics
from gateway.telemetry.history_entries import Entry
from gateway.telemetry.state_store import HISTORY, HISTORY_BYTES

HISTORY_LIFE: Final = "scooters:history_life"
"""Names one life of the stream: gone when Redis was emptied, another after a restart.

A restart may have lost the newest entries, and its clock may be behind: ids are not comparable
then, and what is left is taken from its beginning. What is stored already is known by its key.
"""

START: Final = "0-0"

_IS_BEFORE: Final = """
local function is_before(a, b)
    local a_ms, a_n = string.match(a, '(%d+)-(%d+)')
    local b_ms, b_n = string.match(b, '(%d+)-(%d+)')
    if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
    return tonumber(a_n) < tonumber(b_n)
end
"""

# A cursor of another life, or past all that the stream ever held, points nowhere: start anew.
_READ: Final = (
    _IS_BEFORE
    + """
local stream, life = KEYS[1], KEYS[2]
local known_life, cursor, new_life, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local now_life = redis.call('GET', life)
if not now_life or string.sub(now_life, 1, #run) ~= run then
    now_life = run .. new_life
    redis.call('SET', life, now_life)
end
if redis.call('EXISTS', stream) == 0 then return {now_life, '0-0', {}} end
local info = redis.call('XINFO', 'STREAM', stream)
local newest
for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then newest = info[i + 1] end
end
if now_life ~= known_life or is_before(newest, cursor) then cursor = '0-0' end
return {now_life, cursor, redis.call('XRANGE', stream, '(' .. cursor, '+', 'COUNT', most)}
"""
)

# The sum is lowered by exactly what is trimmed, in the same script. An empty stream has 0 bytes.
_TRIM: Final = (
    _IS_BEFORE
    + """
local stream, life, bytes = KEYS[1], KEYS[2], KEYS[3]
local known_life, cursor, most = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', life) ~= known_life then return 0 end
local entries = redis.call('XRANGE', stream, '-', cursor, 'COUNT', most)
if #entries == 0 then return 0 end
local freed = 0
for _, entry in ipairs(entries) do
    local fields = entry[2]
    freed = freed + 64
    for i = 1, #fields, 2 do
        if fields[i] == 'id' or fields[i] == 'b' then freed = freed + #fields[i + 1] end
    end
end
local ms, number = string.match(entries[#entries][1], '(%d+)-(%d+)')
redis.call('XTRIM', stream, 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(number) + 1))
local left = redis.call('DECRBY', bytes, freed)
if redis.call('XLEN', stream) == 0 or left < 0 then redis.call('SET', bytes, '0') end
return #entries
"""
)


@dataclass(frozen=True, slots=True)
class Page:
    """The next entries, the life of the stream that their ids belong to, and the last one's id."""

    life: str
    cursor: str
    entries: Sequence[Entry]


class HistoryStream:
    """The reading end of `scooters:history`. The bytes of an entry are len(id) + len(b) + 64."""

    def __init__(self, redis: Redis, *, page: int = 1000, wait_s: float = 1.0) -> None:
        """Pages hold at most `page` entries; `wait_s` stays below the client's socket timeout."""
        self._redis = redis
        self._page = page
        self._wait_ms = int(wait_s * 1000)
        self._read = redis.register_script(_READ)
        self._trim = redis.register_script(_TRIM)

    async def after(self, *, life: str, cursor: str) -> Page:
        """The next entries after `cursor`, or the first ones when it belongs to another life."""
        found: list[Any] = await self._read(
            keys=[HISTORY, HISTORY_LIFE], args=[life, cursor, uuid4().hex, self._page]
        )
        now_life, start, raw = found
        entries = [
            Entry(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
            for entry_id, fields in raw
        ]
        # Where nothing follows, the cursor is the one the script took, so that `trim` is safe.
        cursor = entries[-1].entry_id if entries else start.decode()
        return Page(life=now_life.decode(), cursor=cursor, entries=entries)

    async def trim(self, *, life: str, cursor: str) -> None:
        """Forget everything up to and including `cursor`, and its bytes."""
        keys = [HISTORY, HISTORY_LIFE, HISTORY_BYTES]
        while await self._trim(keys=keys, args=[life, cursor, self._page]) == self._page:
            pass

    async def keep_newest(self, at_most_bytes: int) -> None:
        """Forget the oldest pages until the stream is no larger; for Redis without Postgres."""
        while int(await self._redis.get(HISTORY_BYTES) or 0) > at_most_bytes:
            page = await self.after(life="", cursor=START)
            await self.trim(life=page.life, cursor=page.cursor)
            if not page.entries:
                return

    async def wait(self, cursor: str) -> bool:
        """Whether there is anything to take: at once for what comes after `cursor`."""
        if await self._redis.xread({HISTORY: cursor}, count=1, block=self._wait_ms):
            return True
        # Also what a dead gateway stored but did not trim, and ids below our cursor.
        return bool(await self._redis.xlen(HISTORY))

    async def measure(self, metrics: Metrics) -> None:
        """Set the gauges of length, bytes and age of the oldest entry."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(HISTORY)
            pipe.get(HISTORY_BYTES)
            pipe.xrange(HISTORY, count=1)
            pipe.time()
            entries, size, oldest, (now_s, _) = await pipe.execute()
        metrics.history_entries.set(entries)
        metrics.history_bytes.set(int(size or 0))
        age_s = now_s - int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else 0.0
        metrics.history_oldest_s.set(max(0.0, age_s))
