"""Migrations only add, so that gateways of the release before go on with the new tables."""

import shutil
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.storage.migrate import MIGRATIONS, migrate, read_migrations

pytestmark = pytest.mark.integration

DROPPED: Final[frozenset[tuple[str, str]]] = frozenset()
"""Table and column that no code of the release before reads or writes any more."""

_COLUMNS: Final = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '' AS wanted
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""

Columns = dict[tuple[str, str], tuple[str, bool]]
"""Type, and whether every INSERT must name it, by table and column."""


async def _columns(url: str) -> Columns:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_COLUMNS)
    finally:
        await connection.close()
    return {(table, column): (kind, wanted) for table, column, kind, wanted in rows}


def _broken(before: Columns, after: Columns) -> list[str]:
    """What statements of the release before would trip over."""
    tables = {table for table, _ in before}
    gone = [each for each in before if each not in after and each not in DROPPED]
    other = [each for each in before if each in after and before[each] != after[each]]
    wanted = [
        each
        for each, (_, must) in after.items()
        if must and each[0] in tables and each not in before
    ]
    return [
        *(f"{table}.{column} is gone" for table, column in gone),
        *(f"{table}.{column} is another" for table, column in other),
        *(f"{table}.{column} must be given" for table, column in wanted),
    ]


async def test_each_migration_leaves_what_the_statements_of_earlier_releases_need(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    before: Columns = {}
    for migration in read_migrations(MIGRATIONS):
        shutil.copy(MIGRATIONS / f"{migration.name}.sql", tmp_path)
        await migrate(empty_postgres_url, folder=tmp_path)
        after = await _columns(empty_postgres_url)
        assert _broken(before, after) == [], migration.name
        before = after


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE rejects DROP COLUMN topic", ["rejects.topic is gone"]),
        ("ALTER TABLE rejects RENAME TO refusals", None),
        ("ALTER TABLE scooter_events ALTER event_type TYPE varchar", "scooter_events.event_type"),
        ("ALTER TABLE rejects ADD shade text NOT NULL", ["rejects.shade must be given"]),
        ("ALTER TABLE rejects ADD shade text NOT NULL DEFAULT ''", []),
    ],
    ids=[
        "a drop",
        "a new name",
        "another type",
        "a column to be filled",
        "a column with a default",
    ],
)
async def test_what_is_not_an_addition_is_seen(
    postgres_url: str, statement: str, told: list[str] | str | None
) -> None:
    before = await _columns(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(statement)
    await connection.close()

    broken = _broken(before, await _columns(postgres_url))

    if isinstance(told, list):
        assert broken == told
    else:
        assert broken
        assert all((told or "rejects.") in each for each in broken)
