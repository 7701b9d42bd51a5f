"""Redis and Postgres are proved to keep what they are given, or waited for while they are away."""

import asyncio

import asyncpg
import structlog
from redis.asyncio import Redis

from gateway.errors import StartRefused
from gateway.outage import Outage
from gateway.storage.postgres import AWAY as POSTGRES_AWAY
from gateway.storage.postgres import check_postgres
from gateway.storage.redis import AWAY as REDIS_AWAY
from gateway.storage.redis import check_redis
from gateway.supervise import Loop

log = structlog.get_logger()


async def proven(pool: asyncpg.Pool | None, redis: Redis, *, stop: asyncio.Event) -> bool:
    """Whether the servers will do; False when `stop` came first. Raises StartRefused."""
    proving = asyncio.create_task(_prove(pool, redis), name="prove servers")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({proving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if proving.done():
            proving.result()
        return proving.done()
    finally:
        proving.cancel()
        stopping.cancel()


async def once_proven(pool: asyncpg.Pool, loop: Loop) -> None:
    """Write nothing to a Postgres that was away at the start until it is known to keep it."""
    outage = Outage("postgres at start")
    while True:
        try:
            findings = await check_postgres(pool)
            break
        except POSTGRES_AWAY as error:
            await asyncio.sleep(outage.away(str(error) or type(error).__name__))
    if findings:
        raise StartRefused(findings)
    await loop()


async def _prove(pool: asyncpg.Pool | None, redis: Redis) -> None:
    """Wait for Redis; refuse to start on a Redis or Postgres that would lose data.

    Postgres may be away: states live without it, and everything else waits.
    """
    outage = Outage("redis at start")
    while True:
        try:
            findings = await check_redis(redis)
            break
        except REDIS_AWAY as error:
            await asyncio.sleep(outage.away(str(error) or type(error).__name__))
    if pool is not None:
        try:
            findings += await check_postgres(pool)
        except POSTGRES_AWAY as error:
            log.warning("starting without postgres", reason=str(error) or type(error).__name__)
    if findings:
        raise StartRefused(findings)
