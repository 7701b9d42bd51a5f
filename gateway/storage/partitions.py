"""Daily partitions: made ahead of time, dropped when old; what fell into a default is moved."""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

import asyncpg
import structlog

from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.settings import Settings
from gateway.storage.postgres import AWAY, transaction

log = structlog.get_logger()

DAILY: Final = {
    "scooter_snapshots": "period_start",
    "scooter_events": "received_at",
    "late_reports": "received_at",
    "rejects": "day",
}
"""The partitioned tables, and the column that names a row's day (UTC, by our clock)."""

_AHEAD_DAYS: Final = 7
_NAME: Final = re.compile(r"_p(\d{8})$")

_LOCK: Final = 0x5C007E13
"""The advisory lock of whoever makes or drops partitions."""

_PARTITIONS: Final = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = $1::text::regclass ORDER BY 1
"""
# Not to_regclass: it may answer from a cache that does not know yet what another gateway did.
_EXISTS: Final = """
    SELECT EXISTS (
        SELECT FROM pg_class WHERE relname = $1 AND relnamespace = current_schema()::regnamespace
    )
"""
_PRUNE_KEYS: Final = """
    DELETE FROM history_keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM history_keys WHERE received_on < $1 LIMIT 10000
    ))
"""


def keep_days(settings: Settings) -> dict[str, int]:
    """How many whole days each table keeps, besides today."""
    return {
        "scooter_snapshots": settings.keep_snapshots_days,
        "scooter_events": settings.keep_events_days,
        "late_reports": settings.keep_late_days,
        "rejects": settings.keep_rejects_days,
    }


async def tend_partitions(
    pool: asyncpg.Pool, *, keep: Mapping[str, int], metrics: Metrics, period_s: float = 600.0
) -> None:
    """Every `period_s`, for ever: make, drop and count; waits while Postgres is away."""
    outage = Outage("partitions")
    while True:
        today = datetime.now(UTC).date()
        try:
            await make_ahead(pool, today=today)
            await drop_old(pool, keep=keep, today=today)
            await prune_keys(pool, keep=keep, today=today)
            for table, rows in (await default_partition_rows(pool)).items():
                metrics.default_partition_rows.labels(table).set(rows)
        except AWAY as error:
            await asyncio.sleep(outage.away(f"{type(error).__name__}: {error}"))
        else:
            outage.back()
            await asyncio.sleep(period_s)


async def make_ahead(
    pool: asyncpg.Pool, *, today: date, ahead_days: int = _AHEAD_DAYS
) -> list[str]:
    """Make the partitions from yesterday to `ahead_days` after today; returns the new names.

    Rows of such a day, or of an older one, that fell into the default partition are moved.
    """
    last = today + timedelta(days=ahead_days)
    wanted = {today + timedelta(days=offset) for offset in range(-1, ahead_days + 1)}
    made = []
    for table, column in DAILY.items():
        there = {row[0] for row in await pool.fetch(_PARTITIONS, table)}
        strays = f"SELECT DISTINCT ({_as_day(table)}) FROM {table}_default"  # noqa: S608 - our names
        days = {row[0] for row in await pool.fetch(strays) if row[0] <= last}
        for day in sorted(wanted | days):
            name = f"{table}_p{day:%Y%m%d}"
            if name not in there and await _make(pool, table, column, day):
                made.append(name)
    return made


async def _make(pool: asyncpg.Pool, table: str, column: str, day: date) -> bool:
    name = f"{table}_p{day:%Y%m%d}"
    first, end = _bound(table, day), _bound(table, day + timedelta(days=1))
    async with pool.acquire() as connection, transaction(connection):
        await _lock(connection)
        if await connection.fetchval(_EXISTS, name):
            return False  # another gateway was faster
        await connection.execute(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE")
        await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS)")
        await connection.execute(
            f"WITH moved AS (DELETE FROM {table}_default"  # noqa: S608 - our own names and dates
            f" WHERE {column} >= '{first}' AND {column} < '{end}' RETURNING *)"
            f" INSERT INTO {name} SELECT * FROM moved"
        )
        # Unlike CREATE TABLE … PARTITION OF, this does not stop the table's readers and writers.
        await connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}')"
        )
    return True


async def drop_old(pool: asyncpg.Pool, *, keep: Mapping[str, int], today: date) -> list[str]:
    """Drop each partition of a day more than `keep[table]` days before today; returns the names.

    DETACH … CONCURRENTLY is not to be had beside a default partition, so the table is locked
    for a moment; where it is in use for long, the next round tries again.
    """
    dropped = []
    for table, days in keep.items():
        oldest = today - timedelta(days=days)
        for (name,) in await pool.fetch(_PARTITIONS, table):
            found = _NAME.search(name)
            if found and datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() < oldest:
                await _drop(pool, table, name)
                dropped.append(name)
        strays = f"DELETE FROM {table}_default WHERE {_as_day(table)} < $1"  # noqa: S608 - our names
        await pool.execute(strays, oldest)
    if dropped:
        log.info("old partitions dropped", partitions=len(dropped))
    return dropped


async def _drop(pool: asyncpg.Pool, table: str, name: str) -> None:
    async with pool.acquire() as connection, transaction(connection):
        await _lock(connection)
        if await connection.fetchval(_EXISTS, name):
            await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {name}")
            await connection.execute(f"DROP TABLE {name}")


async def prune_keys(pool: asyncpg.Pool, *, keep: Mapping[str, int], today: date) -> int:
    """Forget the keys of what no table keeps any more; returns how many."""
    oldest = today - timedelta(days=max(keep.values()))
    pruned = 0
    while number := int((await pool.execute(_PRUNE_KEYS, oldest)).split()[1]):
        pruned += number
    return pruned


async def default_partition_rows(pool: asyncpg.Pool) -> dict[str, int]:
    """Rows of each default partition, by table: anything but 0 wants a look at our clock."""
    return {
        table: await pool.fetchval(f"SELECT count(*) FROM {table}_default")  # noqa: S608 - our names
        for table in DAILY
    }


async def _lock(connection: asyncpg.Connection) -> None:
    """One gateway at a time, and nobody waits behind us for long."""
    await connection.execute("SET LOCAL lock_timeout = '2s'")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)


def _as_day(table: str) -> str:
    column = DAILY[table]
    return column if column == "day" else f"({column} AT TIME ZONE 'UTC')::date"


def _bound(table: str, day: date) -> str:
    return f"{day}" if DAILY[table] == "day" else f"{day} 00:00:00+00"
