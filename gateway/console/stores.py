"""The servers a command needs, opened for it; what they refuse becomes a sentence."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from devices.console.exits import CommandFailed
from gateway.errors import ServerAway, SettingsError
from gateway.settings import Settings, env_file_problem
from gateway.storage.postgres import AWAY, open_postgres
from gateway.storage.redis import open_redis

_NAME: Final = "scooter-cli"

_REFUSALS: Final = {
    "28": "Postgres refuses the login ({}): check SCOOTER_POSTGRES_URL",
    "3D": "Postgres has no such database ({}): create it, or check SCOOTER_POSTGRES_URL",
    "42P01": "Postgres lacks a table ({}): run `scooter migrate`",
    "42703": "Postgres lacks a column ({}): run `scooter migrate`",
    "42501": "Postgres does not allow it ({}): use the role that owns the tables",
}
"""What a person does about an error, by SQLSTATE or its class."""


@asynccontextmanager
async def postgres(
    settings: Settings, *, connections: int = 2
) -> AsyncGenerator[asyncpg.Pool, None]:
    """A small pool; whatever Postgres refuses inside the block is told in one sentence.

    Raises SettingsError for a gateway that runs on Redis alone.
    """
    url = postgres_url(settings)
    with postgres_told():
        async with open_postgres(url, connections=connections, name=_NAME) as pool:
            yield pool


@asynccontextmanager
async def postgres_if_any(settings: Settings) -> AsyncGenerator[asyncpg.Pool | None, None]:
    """Like `postgres`; None for a gateway that runs on Redis alone."""
    if settings.postgres_url is None:
        yield None
        return
    async with postgres(settings) as pool:
        yield pool


def postgres_url(settings: Settings) -> str:
    """Raises SettingsError for a gateway that runs on Redis alone, and for a wrong port."""
    if settings.postgres_url is None:
        unset = "is not set, and this needs Postgres; Redis alone keeps states"
        raise SettingsError([f"SCOOTER_POSTGRES_URL: {unset}{_none_found(settings)}"])
    url = settings.postgres_url.get_secret_value()
    if problem := _postgres_problem(url):
        raise SettingsError([problem])
    return url


def check_addresses(settings: Settings) -> None:
    """Raises SettingsError when an address is none, before anything waits for it for ever."""
    problems = [_redis_problem(settings.redis_url.get_secret_value())]
    if settings.postgres_url is not None:
        problems.append(_postgres_problem(settings.postgres_url.get_secret_value()))
    if found := [problem for problem in problems if problem]:
        raise SettingsError(found)


def _postgres_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = "," in parts.netloc or parts.port
    except ValueError as error:
        return f"SCOOTER_POSTGRES_URL: {error}"
    if parts.scheme not in {"postgres", "postgresql"}:
        return "SCOOTER_POSTGRES_URL: must begin with postgresql://"
    return None


def _redis_problem(url: str) -> str | None:
    try:
        parse_url(url)
    except ValueError as error:
        return f"SCOOTER_REDIS_URL: {error}"
    return None


@contextmanager
def postgres_told() -> Iterator[None]:
    """Turn the driver's errors into ServerAway, SettingsError or CommandFailed."""
    try:
        yield
    except ServerAway as error:
        if isinstance(error.__cause__, asyncpg.exceptions.ClientConfigurationError):
            raise SettingsError([f"SCOOTER_POSTGRES_URL: {error.detail}"]) from None
        is_told = "SCOOTER_POSTGRES_URL" in error.detail
        if error.server == "postgres" and isinstance(error.__cause__, OSError) and not is_told:
            raise _away("postgres", error.__cause__, "SCOOTER_POSTGRES_URL") from error.__cause__
        raise
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise SettingsError([f"SCOOTER_POSTGRES_URL: {error}"]) from None
    except AWAY as error:
        if isinstance(error, OSError):
            raise _away("postgres", error, "SCOOTER_POSTGRES_URL") from error
        raise ServerAway("postgres", str(error) or type(error).__name__) from error
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        refusal = _REFUSALS.get(state) or _REFUSALS.get(state[:2]) or "Postgres refuses: {}"
        raise CommandFailed(refusal.format(error)) from error


@asynccontextmanager
async def redis(settings: Settings) -> AsyncGenerator[Redis, None]:
    """A client; a refused login inside the block is told in one sentence."""
    url = settings.redis_url.get_secret_value()
    if problem := _redis_problem(url):
        raise SettingsError([problem])
    async with open_redis(url, connections=4) as client:
        try:
            yield client
        except ServerAway as error:
            if isinstance(error.__cause__, AuthenticationError):
                raise CommandFailed(
                    f"Redis refuses the login ({error.detail}): check SCOOTER_REDIS_URL"
                ) from error
            if not isinstance(error.__cause__, RedisConnectionError):
                raise
            setting = f"SCOOTER_REDIS_URL{_none_found(settings)}"
            raise _away("redis", error.__cause__, setting) from error.__cause__


def _away(server: str, cause: BaseException, setting: str) -> ServerAway:
    why = str(cause).rstrip(".") or type(cause).__name__
    return ServerAway(server, f"{why}: start it, or check {setting}")


def _none_found(settings: Settings) -> str:
    """For whoever forgot to say where they are, or said it wrongly: a second terminal beside the
    demo.
    """
    if problem := env_file_problem():
        return f". {problem}"
    if settings.model_fields_set:
        return ""
    return (
        ". No setting was found here at all: SCOOTER_ENV_FILE names a file of them, the demo's is "
        ".demo/gateway.env"
    )
