"""Redis: open a client, tell an outage from a defect, and prove that the server will do."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.exceptions as errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

AWAY: Final[tuple[type[BaseException], ...]] = (
    OSError,
    TimeoutError,
    errors.ConnectionError,
    errors.TimeoutError,
    errors.ReadOnlyError,
    errors.OutOfMemoryError,
    errors.TryAgainError,
    errors.ClusterDownError,
)
"""Redis cannot serve now: wait, and repeat the same thing. See `is_away` for the rest."""

_AWAY_CODES: Final = ("MISCONF", "BUSY", "MASTERDOWN", "NOREPLICAS")
_OLDEST_VERSION: Final = (7, 0)


def is_away(error: BaseException) -> bool:
    """Whether to wait and repeat: one of AWAY, or an answer for which the client has no class."""
    if isinstance(error, AWAY):
        return True
    return isinstance(error, errors.ResponseError) and (
        getattr(error, "status_code", None) in _AWAY_CODES or str(error).startswith(_AWAY_CODES)
    )


@asynccontextmanager
async def open_redis(
    url: str, *, connections: int = 32, timeout_s: float = 2.0
) -> AsyncGenerator[Redis, None]:
    """A client that gives up after `timeout_s` and never repeats by itself; connects when used.

    The default ten retries stretch one second to fifteen, and repeat what may not be repeated.
    Answers are bytes, by RESP3.
    """
    client = Redis.from_url(
        url,
        protocol=3,
        decode_responses=False,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=connections,
        client_name="scooter-gateway",
    )
    try:
        yield client
    finally:
        await client.aclose()


async def check_redis(client: Redis) -> list[str]:
    """What would lose data, each with how to mend it; raises one of AWAY when it is away."""
    info: dict[str, Any] = await client.info()
    findings = []
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_VERSION:
        findings.append(f"Redis is {version}: install version 7.0 or newer")
    if info["maxmemory_policy"] != "noeviction":
        findings.append(
            f"Redis evicts states without an error (maxmemory-policy {info['maxmemory_policy']}): "
            "set maxmemory-policy noeviction in redis.conf"
        )
    if not int(info["aof_enabled"]):
        findings.append(
            "Redis forgets what is settled when it dies (appendonly no): "
            "set appendonly yes and appendfsync everysec in redis.conf"
        )
    elif info["aof_last_write_status"] != "ok":
        findings.append(
            "Redis could not write its append-only file: look for a full disk or wrong rights "
            "in its data folder"
        )
    return findings
