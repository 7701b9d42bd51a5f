"""Migrations run once, in order, whoever runs them; and Postgres is checked at the start."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.storage.migrate import MigrationError, migrate, pending
from gateway.storage.postgres import AWAY, check_postgres, open_postgres

pytestmark = pytest.mark.integration

TABLES = {
    "history_cursor",
    "history_keys",
    "late_reports",
    "rejects",
    "scooter_events",
    "scooter_snapshots",
    "scooter_state",
}


@pytest.fixture
async def pool(empty_postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(empty_postgres_url) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (n int);")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE two (n int);")
    return tmp_path


async def tables(pool: asyncpg.Pool) -> set[str]:
    found = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    return {row[0] for row in found} - {"schema_migrations"}


async def test_a_second_run_has_nothing_to_do(pool: asyncpg.Pool, empty_postgres_url: str) -> None:
    first = await migrate(empty_postgres_url)

    assert first[0] == "0001_state_and_history"
    assert await migrate(empty_postgres_url) == []
    assert await pending(pool) == []
    assert await tables(pool) >= TABLES


async def test_several_at_once_apply_each_file_once(
    pool: asyncpg.Pool, empty_postgres_url: str
) -> None:
    applied = await asyncio.gather(*(migrate(empty_postgres_url) for _ in range(4)))

    assert sum("0001_state_and_history" in names for names in applied) == 1
    assert await pool.fetchval("SELECT count(*) FROM history_cursor") == 1


async def test_pending_names_what_is_not_applied_and_changes_nothing(
    pool: asyncpg.Pool, empty_postgres_url: str, folder: Path
) -> None:
    assert await pending(pool, folder=folder) == ["0001_one", "0002_two"]
    await migrate(empty_postgres_url, folder=folder)
    (folder / "0003_three.sql").write_text("CREATE TABLE three (n int);")

    assert await pending(pool, folder=folder) == ["0003_three"]
    assert await tables(pool) == {"one", "two"}


async def test_a_file_that_changed_after_it_was_applied_is_refused(
    pool: asyncpg.Pool, empty_postgres_url: str, folder: Path
) -> None:
    await migrate(empty_postgres_url, folder=folder)
    (folder / "0001_one.sql").write_text("CREATE TABLE one (n bigint);")

    with pytest.raises(MigrationError, match="0001_one was changed"):
        await migrate(empty_postgres_url, folder=folder)
    with pytest.raises(MigrationError, match="0001_one was changed"):
        await pending(pool, folder=folder)


async def test_a_database_newer_than_the_code_is_refused(
    empty_postgres_url: str, folder: Path
) -> None:
    await migrate(empty_postgres_url, folder=folder)
    (folder / "0002_two.sql").unlink()

    with pytest.raises(MigrationError, match="run the newer version"):
        await migrate(empty_postgres_url, folder=folder)


async def test_a_gap_in_the_numbers_is_refused(empty_postgres_url: str, folder: Path) -> None:
    (folder / "0004_four.sql").write_text("SELECT 1;")

    with pytest.raises(MigrationError, match="without gaps"):
        await migrate(empty_postgres_url, folder=folder)


async def test_a_file_that_fails_leaves_the_ones_before_it_and_nothing_of_its_own(
    pool: asyncpg.Pool, empty_postgres_url: str, folder: Path
) -> None:
    (folder / "0002_two.sql").write_text("CREATE TABLE two (n int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_postgres_url, folder=folder)
    assert await tables(pool) == {"one"}

    (folder / "0002_two.sql").write_text("CREATE TABLE two (n int);")
    assert await migrate(empty_postgres_url, folder=folder) == ["0002_two"]


async def test_every_table_and_column_is_described(postgres_url: str) -> None:
    async with open_postgres(postgres_url) as migrated:
        bare = await migrated.fetch(
            "SELECT c.relname, a.attname FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relname = ANY ($1) AND a.attname <> 'one'"
            " AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)",
            TABLES,
        )

    assert [tuple(row) for row in bare] == []


async def test_a_fresh_database_is_told_to_migrate_and_a_migrated_one_is_fine(
    pool: asyncpg.Pool, empty_postgres_url: str
) -> None:
    assert "run `scooter migrate`" in (await check_postgres(pool))[0]

    await migrate(empty_postgres_url)

    assert await check_postgres(pool) == []


async def test_a_server_that_forgets_commits_is_a_finding(postgres_url: str) -> None:
    async with open_postgres(f"{postgres_url}?options=-csynchronous_commit%3Doff") as pool:
        assert ["synchronous_commit" in found for found in await check_postgres(pool)] == [True]


async def test_a_role_without_rights_is_a_finding(postgres_url: str) -> None:
    async with open_postgres(postgres_url, connections=1) as pool:
        await pool.execute("CREATE ROLE check_reader")
        try:
            await pool.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO check_reader")
            async with open_postgres(
                f"{postgres_url}?options=-crole%3Dcheck_reader", connections=1
            ) as reader:
                findings = await check_postgres(reader)
        finally:
            await pool.execute("DROP OWNED BY check_reader")
            await pool.execute("DROP ROLE check_reader")

    assert any("may not create partitions" in finding for finding in findings)
    assert any("does not own" in finding for finding in findings)


async def test_a_pool_opens_while_the_server_is_away_and_says_so_when_asked() -> None:
    async with open_postgres("postgresql://nobody@127.0.0.1:1/nothing") as pool:
        with pytest.raises(AWAY):
            await pool.fetchval("SELECT 1")
