"""Redis: open a client, tell an outage from a defect, and prove that the server will do."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.exceptions as errors
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection, parse_url
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


class _Prompt(AbstractConnection):
    """Sends without `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation.

    A loop could then not be stopped: https://github.com/python/cpython/issues/86296
    """

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - the parent's signature
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        parts = [command.encode()] if isinstance(command, str) else command
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([parts] if isinstance(parts, bytes) else parts)
        except BaseException as error:
            # What was sent in part cannot be taken back, so the connection is of no more use.
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise errors.TimeoutError("Redis does not read what is sent") from None
            if isinstance(error, OSError):
                raise errors.ConnectionError(f"cannot send: {error}") from error
            raise


class _PromptTcp(_Prompt, Connection):
    pass


class _PromptTls(_Prompt, SSLConnection):
    pass


class _PromptUnix(_Prompt, UnixDomainSocketConnection):
    pass


_PROMPT: Final = {
    Connection: _PromptTcp,
    SSLConnection: _PromptTls,
    UnixDomainSocketConnection: _PromptUnix,
}


@asynccontextmanager
async def open_redis(
    url: str, *, connections: int = 32, timeout_s: float = 2.0
) -> AsyncGenerator[Redis, None]:
    """A client that gives up after `timeout_s` and never repeats by itself; connects when used.

    The default ten retries stretch one second to fifteen, and repeat what may not be repeated.
    Answers are bytes, by RESP3.
    """
    options: dict[str, Any] = dict(parse_url(url))
    pool = ConnectionPool(
        **options | {"connection_class": _PROMPT[options.get("connection_class", Connection)]},
        protocol=3,
        decode_responses=False,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=connections,
        client_name="scooter-gateway",
    )
    client = Redis.from_pool(pool)
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
