"""Copies of the registry under test: kept for a block, and what they put into Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from devices.registry import Standing
from gateway.metrics import Metrics
from gateway.registry_copy import RegistryCopy
from gateway.registry_mirror import HEAD
from tests.eventually import eventually

NEVER_S: Final = 3600.0
NOWHERE: Final = "postgres://scooter:x@127.0.0.1:1/none"
HASH: Final = "$7$101$AAAAAAAAAAAAAAAA$AAAA"
"""Looks like one of a secret that nobody has."""


@asynccontextmanager
async def following(
    pool: asyncpg.Pool, redis: Redis, *, period_s: float = NEVER_S, metrics: Metrics | None = None
) -> AsyncIterator[RegistryCopy]:
    """A copy that is kept while the block runs; nothing but what it is told moves it."""
    copy = RegistryCopy(pool, redis, metrics=metrics or Metrics(), period_s=period_s)
    task = asyncio.create_task(copy.run(), name="registry")
    try:
        yield copy
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait({task})


async def loaded(copy: RegistryCopy) -> None:
    async with asyncio.timeout(15):
        await copy.loaded.wait()


async def until(copy: RegistryCopy, scooter_id: str, standing: Standing | None) -> None:
    async def probe() -> bool:
        return copy.standing(scooter_id) is standing

    await eventually(probe, what=f"{scooter_id} as {standing}")


async def mirror_key(redis: Any) -> str:  # noqa: ANN401 - its types know too many answers
    """The key of the scooters in Redis; empty without a copy."""
    key = await redis.hget(HEAD, "scooters")
    return key.decode() if key else ""


async def mirrored(
    redis: Any,  # noqa: ANN401 - as above
    what: Callable[[dict[str, str]], bool],
) -> dict[str, str]:
    """The scooters in Redis, once they are as told."""

    async def probe() -> dict[str, str] | None:
        key = await mirror_key(redis)
        found = await redis.hgetall(key) if key else {}
        texts = {each.decode(): text.decode() for each, text in found.items()}
        return {"": "", **texts} if what(texts) else None

    found = await eventually(probe, what="the copy in Redis")
    return {each: text for each, text in found.items() if each}
