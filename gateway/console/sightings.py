"""What is known of scooters by their own messages: Redis first, then Postgres."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from devices.console.output import talk
from devices.console.workshop import Lookup, Seen
from gateway.console import stores
from gateway.errors import ServerAway
from gateway.settings import Settings
from gateway.telemetry.state_store import SCOOTER, redis_translated

_FIELDS: Final = ("presence", "received_at", "firmware")
_ROWS: Final = (
    "SELECT scooter_id, presence, received_at, firmware FROM scooter_state"
    " WHERE scooter_id = ANY($1::text[])"
)


@asynccontextmanager
async def lookup(settings: Settings, pool: asyncpg.Pool) -> AsyncGenerator[Lookup, None]:
    """A lookup for many scooters at once; an outage of Redis is told once."""
    async with stores.redis(settings) as redis:
        is_away = False

        async def look(scooter_ids: Sequence[str]) -> Mapping[str, Seen]:
            nonlocal is_away
            found: dict[str, Seen] = {}
            if not is_away:
                try:
                    found = await _in_redis(redis, scooter_ids)
                except ServerAway as error:
                    is_away = True
                    talk(f"{error}; presence is as of the last snapshot")
            missing = [each for each in scooter_ids if each not in found]
            return found | await _in_postgres(pool, missing)

        yield look


async def _in_redis(redis: Redis, scooter_ids: Sequence[str]) -> dict[str, Seen]:
    with redis_translated():
        async with redis.pipeline(transaction=False) as pipe:
            for scooter_id in scooter_ids:
                pipe.hmget(f"{SCOOTER}{scooter_id}", _FIELDS)
            states: list[Any] = await pipe.execute(raise_on_error=False)
    found = {}
    for scooter_id, state in zip(scooter_ids, states, strict=True):
        if isinstance(state, Exception):
            continue  # what has the key's name is no state
        presence, at, firmware = (text and text.decode(errors="replace") for text in state)
        if presence or at:
            received_at = datetime.fromtimestamp(int(at) / 1000, UTC) if at else None
            found[scooter_id] = Seen(presence, received_at, firmware)
    return found


async def _in_postgres(pool: asyncpg.Pool, scooter_ids: Sequence[str]) -> dict[str, Seen]:
    if not scooter_ids:
        return {}
    rows = await pool.fetch(_ROWS, list(scooter_ids))
    return {row[0]: Seen(row[1], row[2], row[3]) for row in rows}
