"""Read-through: Redis first, then Postgres, and refill; also the refill of an emptied Redis."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal, NamedTuple
from uuid import uuid4

import asyncpg
import orjson
import structlog
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.storage.postgres import AWAY, transaction
from gateway.telemetry.columns import WHOLE_STATE
from gateway.telemetry.scripts import script
from gateway.telemetry.state_store import INTERNAL, LOADED, State, StateStore, redis_translated

log = structlog.get_logger()

CHUNK: Final = 500
_ALL: Final = f"SELECT scooter_id, {WHOLE_STATE} AS fields FROM scooter_state"  # noqa: S608 - ours
_ONE: Final = f"{_ALL} WHERE scooter_id = $1"

# A Redis that was emptied again during the refill has lost the first states, and this witness.
_SET_LOADED: Final = """
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('SET', KEYS[2], ARGV[1])
return 1
"""
_WITNESS_S: Final = 3600


class Found(NamedTuple):
    """A state and the server that had it."""

    state: State
    source: Literal["redis", "postgres"]


@contextmanager
def postgres_translated() -> Iterator[None]:
    """Turn the driver's outages into ServerAway."""
    try:
        yield
    except AWAY as error:
        raise ServerAway("postgres", str(error) or type(error).__name__) from error


class Refiller:
    """Puts states from Postgres back into Redis, where that has none or an older one.

    Without a pool (Redis alone) there is nothing to put back: an emptied Redis starts anew.
    """

    def __init__(self, redis: Redis, pool: asyncpg.Pool | None, *, stale_after_s: float) -> None:
        self._redis = redis
        self._pool = pool
        self._stale_after_ms = int(stale_after_s * 1000)
        self._refill = redis.register_script(script("refill"))
        self._set_loaded = redis.register_script(_SET_LOADED)
        self._one_at_a_time = asyncio.Lock()

    @property
    def has_postgres(self) -> bool:
        """Whether there is anything to refill from."""
        return self._pool is not None

    async def fleet(self) -> int:
        """Refill every state unless the marker says that they are there, then set the marker.

        Until then nothing is settled. Returns how many were put back; raises ServerAway while
        Redis or Postgres is away.
        """
        async with self._one_at_a_time:
            with redis_translated():
                if await self._redis.exists(LOADED):
                    return 0
            witness = f"{LOADED}:{uuid4().hex}"
            with redis_translated():
                await self._redis.set(witness, 1, ex=_WITNESS_S)
            refilled = await self._put_all_back()
            with redis_translated():
                if not await self._set_loaded(keys=[witness, LOADED], args=[_now_ms()]):
                    raise ServerAway("redis", "it was emptied again during the refill")
            log.info("states refilled", scooters=refilled, has_postgres=self.has_postgres)
            return refilled

    async def _put_all_back(self) -> int:
        refilled = 0
        if self._pool is None:
            return refilled
        with postgres_translated():
            async with self._pool.acquire() as connection, transaction(connection):
                rows = await connection.cursor(_ALL)
                while chunk := await rows.fetch(CHUNK):
                    refilled += await self._put_back(chunk)
        return refilled

    async def scooter(self, scooter_id: str) -> State | None:
        """Refill one state and return it as Postgres has it; None if Postgres has none."""
        if self._pool is None:
            return None
        with postgres_translated():
            row = await self._pool.fetchrow(_ONE, scooter_id)
        if row is None:
            return None
        with suppress(ServerAway):  # what Postgres says is true without it
            await self._put_back([row])
        state: State = orjson.loads(row["fields"])
        return {name: text for name, text in state.items() if name not in INTERNAL}

    async def _put_back(self, rows: list[asyncpg.Record]) -> int:
        states = [f'{{"id":"{row["scooter_id"]}","fields":{row["fields"]}}}' for row in rows]
        batch = f"[{','.join(states)}]"
        with redis_translated():
            return int(await self._refill(args=[batch, self._stale_after_ms]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def read_through(scooter_id: str, *, states: StateStore, refiller: Refiller) -> Found | None:
    """One scooter's state from Redis, else from Postgres (and put back); None if unknown.

    Raises ServerAway when neither can say: an outage never reads as "unknown".
    """
    try:
        state = await states.read(scooter_id)
    except ServerAway:
        if not refiller.has_postgres:
            raise
        state = None
    if state is not None:
        return Found(state, "redis")
    state = await refiller.scooter(scooter_id)
    return Found(state, "postgres") if state else None
