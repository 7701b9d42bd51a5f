"""Daily partitions are there before they are needed, and gone when they are old."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.storage.partitions import (
    DAILY,
    default_partition_rows,
    drop_old,
    keep_days,
    make_ahead,
    prune_keys,
    tend_partitions,
)
from gateway.storage.postgres import open_postgres
from tests.eventually import end, eventually

pytestmark = pytest.mark.integration

TODAY = date(2026, 11, 23)
KEEP = dict.fromkeys(DAILY, 3)
SNAPSHOT = (
    "INSERT INTO scooter_snapshots (scooter_id, period_start, version, received_at)"
    " VALUES ($1, $2, 1, $2)"
)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


async def partition_of(pool: asyncpg.Pool, at: datetime) -> str:
    """Where a snapshot of this time is stored."""
    await pool.execute(SNAPSHOT, "SC-0001", at)
    stored = "SELECT tableoid::regclass::text FROM scooter_snapshots WHERE period_start = $1"
    return str(await pool.fetchval(stored, at))


async def partitions(pool: asyncpg.Pool, table: str) -> list[str]:
    found = await pool.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass"
        " ORDER BY 1",
        table,
    )
    return [row[0].removeprefix(f"{table}_") for row in found]


async def test_every_table_has_yesterday_today_and_the_days_ahead(pool: asyncpg.Pool) -> None:
    made = await make_ahead(pool, today=TODAY, ahead_days=2)

    assert len(made) == 4 * len(DAILY)
    for table in DAILY:
        days = ["p20261122", "p20261123", "p20261124", "p20261125"]
        assert await partitions(pool, table) == ["default", *days]
    assert await make_ahead(pool, today=TODAY, ahead_days=2) == []


async def test_a_row_before_and_one_after_midnight_utc_lie_in_two_partitions(
    pool: asyncpg.Pool,
) -> None:
    await make_ahead(pool, today=TODAY)
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    last = midnight - timedelta(microseconds=1)

    assert await partition_of(pool, last) == "scooter_snapshots_p20261123"
    assert await partition_of(pool, midnight) == "scooter_snapshots_p20261124"
    assert set((await default_partition_rows(pool)).values()) == {0}


async def test_a_session_in_another_time_zone_makes_the_same_days(postgres_url: str) -> None:
    async with open_postgres(postgres_url, connections=1) as pool:
        await pool.execute("ALTER ROLE CURRENT_USER SET timezone = 'Pacific/Auckland'")
        try:
            await make_ahead(pool, today=TODAY)
            noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
            assert await partition_of(pool, noon) == "scooter_snapshots_p20261123"
        finally:
            await pool.execute("ALTER ROLE CURRENT_USER RESET timezone")


async def test_rows_in_a_default_partition_are_counted_then_moved_to_their_day(
    pool: asyncpg.Pool,
) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    far = datetime(2099, 1, 1, tzinfo=UTC)
    assert await partition_of(pool, noon) == "scooter_snapshots_default"
    assert await partition_of(pool, far) == "scooter_snapshots_default"
    assert (await default_partition_rows(pool))["scooter_snapshots"] == 2

    await make_ahead(pool, today=TODAY)

    assert "p20261120" in await partitions(pool, "scooter_snapshots")
    # What our own clock put into the far future stays where the alarm sees it.
    assert (await default_partition_rows(pool))["scooter_snapshots"] == 1
    assert await pool.fetchval("SELECT count(*) FROM scooter_snapshots") == 2


async def test_old_partitions_are_dropped_whole_and_the_youngest_kept_day_stays(
    pool: asyncpg.Pool,
) -> None:
    for offset in range(6):
        at = datetime(2026, 11, 23, 12, tzinfo=UTC) - timedelta(days=offset)
        await pool.execute(SNAPSHOT, "SC-0001", at)
    await make_ahead(pool, today=TODAY, ahead_days=0)

    dropped = await drop_old(pool, keep=KEEP, today=TODAY)

    assert dropped == ["scooter_snapshots_p20261118", "scooter_snapshots_p20261119"]
    assert await pool.fetchval("SELECT count(*) FROM scooter_snapshots") == 4
    assert await drop_old(pool, keep=KEEP, today=TODAY) == []


async def test_a_table_in_use_is_dropped_from_later_and_does_not_hold_others_up(
    pool: asyncpg.Pool,
) -> None:
    await make_ahead(pool, today=TODAY - timedelta(days=9), ahead_days=0)
    async with pool.acquire() as reader, reader.transaction():
        await reader.execute("LOCK TABLE scooter_snapshots IN ACCESS SHARE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await drop_old(pool, keep={"scooter_snapshots": 3}, today=TODAY)

    assert len(await drop_old(pool, keep={"scooter_snapshots": 3}, today=TODAY)) == 2


async def test_two_gateways_make_and_drop_at_once(pool: asyncpg.Pool) -> None:
    ago = TODAY - timedelta(days=9)
    made = await asyncio.gather(*(make_ahead(pool, today=ago, ahead_days=1) for _ in range(2)))
    assert sum(map(len, made)) == 3 * len(DAILY)

    await asyncio.gather(*(drop_old(pool, keep=KEEP, today=TODAY) for _ in range(2)))
    for table in DAILY:
        assert await partitions(pool, table) == ["default"]


async def test_keys_live_as_long_as_the_longest_kept_table(pool: asyncpg.Pool) -> None:
    keep = {"scooter_events": 10, "late_reports": 3}
    for days in (9, 10, 11, 30):
        day = TODAY - timedelta(days=days)
        await pool.execute("INSERT INTO history_keys VALUES ('SC-0001', $1, $2)", f"e:{days}", day)

    assert await prune_keys(pool, keep=keep, today=TODAY) == 2
    assert await pool.fetch("SELECT key FROM history_keys ORDER BY key") == [("e:10",), ("e:9",)]


async def test_the_loop_makes_today_and_counts_what_is_astray(pool: asyncpg.Pool) -> None:
    metrics = Metrics()
    await pool.execute(SNAPSHOT, "SC-0001", datetime(2099, 1, 1, tzinfo=UTC))
    tending = asyncio.create_task(
        tend_partitions(pool, keep=keep_days(Settings()), metrics=metrics)
    )

    async def counted() -> bool:
        labels = {"table": "scooter_snapshots"}
        return metrics.registry.get_sample_value("gateway_default_partition_rows", labels) == 1

    try:
        await eventually(counted, what="the count of rows in the default partition")
    finally:
        await end(tending)

    today = datetime.now(UTC).strftime("p%Y%m%d")
    for table in DAILY:
        assert today in await partitions(pool, table)
