"""Migrations: plain SQL files applied in order, each in a transaction, once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from gateway.errors import GatewayError
from gateway.storage.readers import grant_reads

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_LOCK: Final = 0x5C007E12
"""The advisory lock of whoever migrates: any number that nothing else in the database uses."""

_CREATE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
_NOTE = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"


class MigrationError(GatewayError):
    """The database and the migration files do not belong together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `0001_words.sql`; its number is its place."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


async def migrate(url: str, *, folder: Path = MIGRATIONS, wait_s: float = 60.0) -> list[str]:
    """Apply what is pending, and grant what readers may read; returns the names applied now.

    Whoever comes second waits at most `wait_s` and finds nothing left to do. Raises
    MigrationError when an applied file was changed or the database is newer than this code.
    """
    connection = await asyncpg.connect(url, timeout=10, command_timeout=wait_s * 2)
    try:
        await connection.execute(f"SET lock_timeout = {int(wait_s * 1000)}")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(_CREATE)
        todo = await _pending(connection, folder)
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    _NOTE, migration.version, migration.name, migration.checksum
                )
        await grant_reads(connection)
        return [migration.name for migration in todo]
    finally:
        await connection.close()


async def pending(
    connection: asyncpg.Connection | asyncpg.Pool, *, folder: Path = MIGRATIONS
) -> list[str]:
    """Names of the migrations that are not applied; raises MigrationError like `migrate`."""
    if not await connection.fetchval(_EXISTS):
        return [migration.name for migration in read_migrations(folder)]
    return [migration.name for migration in await _pending(connection, folder)]


def read_migrations(folder: Path) -> list[Migration]:
    """The files in order; raises MigrationError when their numbers are not 1, 2, 3 …"""
    found = [
        Migration(int(path.name.partition("_")[0]), path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("[0-9]*_*.sql"))
    ]
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations are not numbered without gaps: {folder}")
    return found


async def _pending(connection: asyncpg.Connection | asyncpg.Pool, folder: Path) -> list[Migration]:
    known = {migration.version: migration for migration in read_migrations(folder)}
    applied = await connection.fetch(_APPLIED)
    for version, name, checksum in applied:
        if version not in known:
            raise MigrationError(
                f"the database has migration {name}, which this code does not know: "
                "run the newer version of the gateway"
            )
        if known[version].checksum != checksum:
            raise MigrationError(
                f"migration {known[version].name} was changed after it was applied: "
                "restore the file, and put the change into a new one"
            )
    done = {version for version, _, _ in applied}
    return [migration for version, migration in known.items() if version not in done]
