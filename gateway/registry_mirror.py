"""The registry's copy in Redis, for a gateway that starts while Postgres is away."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog
from redis.asyncio import Redis

from gateway.registry_source import Interned, Known, Rights
from gateway.telemetry.state_store import redis_translated

log = structlog.get_logger()

HEAD: Final = "gateway:registry"
"""A hash: `stamp`, `scooters` (the key of the hash with them), `count`, `rights`, `read_at` ms."""

SCOOTERS: Final = "gateway:registry:scooters:"
"""Followed by a random word: a hash of id to `standing generation tag tag …`."""

_PAGE: Final = 1000
_UNFINISHED_S: Final = 120
"""What a killed writer leaves is gone after this."""

_BEHIND: Final = b"behind"

# A whole copy takes the place of an older one. One that claims to be newer stays, unless it is the
# one that was seen before our reading began: then Postgres itself is older than it was.
_REPLACE = """
local head = redis.call('HMGET', KEYS[1], 'stamp', 'scooters')
local stamp, old = head[1], head[2]
if stamp and stamp >= ARGV[1] and stamp ~= ARGV[2] then
  redis.call('UNLINK', KEYS[2])
  return stamp
end
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[1], 'stamp', ARGV[1], 'scooters', KEYS[2], 'count', ARGV[3],
  'rights', ARGV[4], 'read_at', ARGV[5])
if old and old ~= KEYS[2] then redis.call('UNLINK', old) end
return ''
"""

# Changes fit on a copy that is not older than the reading that they begin with.
_CHANGE = """
local head = redis.call('HMGET', KEYS[1], 'stamp', 'scooters')
local stamp, key = head[1], head[2]
if not stamp or stamp < ARGV[2] then return 'behind' end
if stamp > ARGV[1] then return stamp end
for index = 6, #ARGV, 2 do redis.call('HSET', key, ARGV[index], ARGV[index + 1]) end
if redis.call('HLEN', key) ~= tonumber(ARGV[3]) then return 'behind' end
redis.call('HSET', KEYS[1], 'stamp', ARGV[1], 'count', ARGV[3], 'rights', ARGV[4],
  'read_at', ARGV[5])
return ''
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """The registry as of one reading; `read_at` in seconds since epoch."""

    stamp: str
    scooters: Mapping[str, Known]
    rights: Rights
    read_at: float


class Mirror:
    """Reads and writes the copy; several gateways may, and none overwrites a newer one.

    Every method raises ServerAway while Redis cannot serve.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its types know too many kinds of answers
        self._replace = redis.register_script(_REPLACE)
        self._change = redis.register_script(_CHANGE)

    async def write(self, copy: Copy, *, seen: str = "") -> str:
        """Put a whole copy there; the stamp of the newer one that is there, or nothing.

        `seen` is a stamp that was there before Postgres was read: it cannot be newer.
        """
        key = SCOOTERS + secrets.token_hex(8)
        with redis_translated():
            there = await self._redis.hget(HEAD, "stamp")
            if there and there.decode() not in {"", seen} and there.decode() >= copy.stamp:
                return str(there.decode())
            ids = list(copy.scooters)
            for start in range(0, len(ids), _PAGE):
                page = {each: _text(copy.scooters[each]) for each in ids[start : start + _PAGE]}
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.hset(key, mapping=page)
                    pipe.expire(key, _UNFINISHED_S)
                    await pipe.execute()
            answer = await self._replace(keys=[HEAD, key], args=[copy.stamp, seen, *_rest(copy)])
        return str(answer.decode())

    async def write_changes(
        self, copy: Copy, changed: Mapping[str, Known], *, since: str
    ) -> str | None:
        """Bring what is there from `since` to `copy`; None when it takes a whole copy.

        Else the stamp of the newer copy that is there, or nothing.
        """
        args: list[str | int] = [copy.stamp, since, *_rest(copy)]
        for scooter_id, known in changed.items():
            args += [scooter_id, _text(known)]
        with redis_translated():
            answer = await self._change(keys=[HEAD], args=args)
        return None if answer == _BEHIND else str(answer.decode())

    async def read(self, interned: Interned) -> Copy | None:
        """What is there; None when there is none, none that is whole, or none of ours."""
        try:
            return await self._read(interned)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("the registry's copy in redis cannot be read", reason=str(error))
            return None

    async def _read(self, interned: Interned) -> Copy | None:
        with redis_translated():
            for _ in range(3):  # it may be replaced while it is read
                head: dict[bytes, bytes] = await self._redis.hgetall(HEAD)
                if not head:
                    return None
                scooters = await self._scooters(head[b"scooters"].decode(), interned)
                again = await self._redis.hget(HEAD, "stamp")
                if again == head[b"stamp"] and len(scooters) == int(head[b"count"]):
                    return _copy(head, scooters)
        return None

    async def _scooters(self, key: str, interned: Interned) -> dict[str, Known]:
        found: dict[str, Known] = {}
        cursor = 0
        while True:
            cursor, page = await self._redis.hscan(key, cursor, count=_PAGE)
            for scooter_id, text in page.items():
                standing, generation, *tags = text.decode().split(" ")
                found[scooter_id.decode()] = interned.known(standing, int(generation), tuple(tags))
            if not cursor:
                return found


def _text(known: Known) -> str:
    return " ".join([known.standing, str(known.generation), *sorted(known.tags)])


def _rest(copy: Copy) -> list[str | int]:
    rights = {
        "keys": copy.rights.keys,
        "granted": {each: sorted(rights) for each, rights in copy.rights.granted.items()},
    }
    return [len(copy.scooters), orjson.dumps(rights).decode(), int(copy.read_at * 1000)]


def _copy(head: Mapping[bytes, bytes], scooters: dict[str, Known]) -> Copy:
    rights = orjson.loads(head[b"rights"])
    granted = {
        operator: frozenset((command, tag) for command, tag in pairs)
        for operator, pairs in rights["granted"].items()
    }
    return Copy(
        stamp=head[b"stamp"].decode(),
        scooters=scooters,
        rights=Rights(rights["keys"], granted),
        read_at=min(int(head[b"read_at"]) / 1000, time.time()),
    )
