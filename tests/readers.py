"""Logins of a test's own with the rights of backend developers."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from gateway.storage.readers import REDIS_READER_RIGHTS, grant_reads
from tests.services import PostgresService


def as_login(url: str, name: str, password: str) -> str:
    """The same server for somebody else."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:{password}@{host}").geturl()


@asynccontextmanager
async def redis_reader(admin: Redis, url: str) -> AsyncIterator[str]:
    """The address for a user who may what `reader` may."""
    name, password = f"reader-{secrets.token_hex(4)}", secrets.token_hex(8)
    rights = REDIS_READER_RIGHTS.split()
    await admin.execute_command("ACL", "SETUSER", name, "on", f">{password}", *rights)  # type: ignore[no-untyped-call]
    try:
        yield as_login(url, name, password)
    finally:
        await admin.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def postgres_role(server: PostgresService) -> AsyncIterator[tuple[str, str]]:
    """A role that may log in and owns nothing, and its password."""
    role, password = f"role_{secrets.token_hex(6)}", secrets.token_hex(8)
    superuser = await asyncpg.connect(server.url)
    await superuser.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    try:
        yield role, password
    finally:
        await superuser.execute(f"DROP OWNED BY {role}")
        await superuser.execute(f"DROP ROLE {role}")
        await superuser.close()


@asynccontextmanager
async def postgres_reader(server: PostgresService, url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that may what `scooter_reader` may in the database at `url`, and its password."""
    owner = await asyncpg.connect(url)
    try:
        async with postgres_role(server) as (role, password):
            await grant_reads(owner, role=role)
            try:
                yield role, password
            finally:
                await owner.execute(f"DROP OWNED BY {role}")
    finally:
        await owner.close()
