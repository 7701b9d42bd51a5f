"""Backend developers read what the README shows, and nothing else; they write nothing."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from gateway.storage.migrate import migrate
from gateway.storage.readers import (
    POSTGRES_READER,
    READABLE,
    WITHHELD,
    grant_reads,
    reads_differing,
)
from tests.command_line import receive
from tests.readers import as_login, postgres_reader, postgres_role, redis_reader
from tests.services import PostgresService, RedisService

_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""


@pytest.fixture
async def reader_redis(redis_admin: Redis, redis_server: RedisService) -> AsyncIterator[Redis]:
    """A Redis with some of everything, for a user who may what `reader` may."""
    await receive(redis_admin, "SC-0001", "telemetry", {"lat": 52.52, "lon": 13.405, "batt": 80})
    await receive(redis_admin, "SC-0001", "events", {"id": "1-1", "ev": "fall"})
    await redis_admin.set("gateway:lease:gateway-1", "somebody")
    async with (
        redis_reader(redis_admin, redis_server.admin_url) as url,
        Redis.from_url(url) as reader,
    ):
        yield reader


async def test_the_reader_of_redis_reads_states_and_both_indexes(reader_redis: Redis) -> None:
    async with reader_redis.pipeline() as pipe:
        pipe.hgetall("scooter:SC-0001")
        pipe.zrange("scooters:last_seen", 0, -1)
        pipe.geosearch("scooters:position", latitude=52.52, longitude=13.405, radius=1, unit="km")
        state, seen, near = await pipe.execute()

    assert state[b"battery_percent"] == b"80"
    assert seen == near == [b"SC-0001"]


async def test_the_reader_of_redis_hears_changes(reader_redis: Redis, redis_admin: Redis) -> None:
    async with reader_redis.pubsub() as channel:
        await channel.subscribe("scooters:changes")
        await channel.get_message(timeout=10)
        await receive(redis_admin, "SC-0002", "telemetry", {"batt": 81})
        told = await channel.get_message(timeout=10)

    assert b"SC-0002" in told["data"]


@pytest.mark.parametrize(
    "command",
    [
        "SET scooter:SC-0001 1",
        "HSET scooter:SC-0001 lock unlocked",
        "DEL scooter:SC-0001",
        "UNLINK scooters:last_seen",
        "EXPIRE scooter:SC-0001 1",
        "COPY scooter:SC-0001 scooter:copy",
        "SORT scooter:SC-0001 BY nosort GET gateway:*",
        "PUBLISH scooters:changes lies",
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "CONFIG GET *",
        "ACL LIST",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "CLIENT TRACKING on BCAST",
        "INFO",
        "MONITOR",
        "SHUTDOWN",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "EVAL return(redis.call('SET',KEYS[1],'1')) 1 scooter:SC-0001",
        "EVAL_RO return(redis.call('GET',KEYS[1])) 1 gateway:lease:gateway-1",
        "XRANGE scooters:history - +",
        "XREAD STREAMS scooters:history 0",
        "GET gateway:lease:gateway-1",
        "EXISTS gateway:lease:gateway-1",
        "ZRANGE scooters:dirty 0 -1",
        "SUBSCRIBE scooters:other",
        "PSUBSCRIBE *",
    ],
)
async def test_the_reader_of_redis_is_refused_writes_secrets_and_names(
    reader_redis: Redis, command: str
) -> None:
    with pytest.raises(NoPermissionError):
        await reader_redis.execute_command(*command.split(" "))  # type: ignore[no-untyped-call]


@pytest.fixture
async def owner(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def role(
    postgres_server: PostgresService, postgres_url: str
) -> AsyncIterator[tuple[str, str]]:
    """A role with the rights of `scooter_reader`, and its password."""
    async with postgres_reader(postgres_server, postgres_url) as login:
        yield login


@pytest.fixture
async def reader(role: tuple[str, str], postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(as_login(postgres_url, *role))
    yield connection
    await connection.close()


async def test_every_table_is_either_readable_or_withheld(owner: asyncpg.Connection) -> None:
    tables = {row[0] for row in await owner.fetch(_TABLES)}

    assert tables == set(READABLE) | WITHHELD
    assert not set(READABLE) & WITHHELD


async def test_every_readable_column_is_there(owner: asyncpg.Connection) -> None:
    for table, columns in READABLE.items():
        await owner.fetch(f"SELECT {', '.join(columns) or '*'} FROM {table}")  # noqa: S608


async def test_the_reader_of_postgres_reads_what_is_readable_partitions_through_their_parents(
    owner: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await owner.execute(
        "INSERT INTO scooter_snapshots (scooter_id, period_start, version)"
        " VALUES ('SC-0001', now(), 1)"
    )

    for table, columns in READABLE.items():
        await reader.fetch(f"SELECT {', '.join(columns) or '*'} FROM {table}")  # noqa: S608
    assert await reader.fetchval("SELECT scooter_id FROM scooter_snapshots") == "SC-0001"


async def test_the_reader_of_postgres_is_refused_every_write(reader: asyncpg.Connection) -> None:
    statements = ["CREATE TABLE mine (n int)", "CREATE SCHEMA mine", "DROP TABLE scooter_state"]
    for table in [*READABLE, *WITHHELD]:
        statements += [
            f"INSERT INTO {table} DEFAULT VALUES",
            f"DELETE FROM {table}",  # noqa: S608
            f"TRUNCATE {table}",
            f"ALTER TABLE {table} ADD COLUMN mine int",
        ]
    statements += ["UPDATE scooter_state SET lock = 'unlocked'", "CREATE INDEX ON scooters (tags)"]

    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def test_the_reader_of_postgres_is_refused_what_is_withheld(
    owner: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    names = [
        f"{table}.{row[0]}"
        for table in [*READABLE, *WITHHELD]
        for row in await owner.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
            " AND NOT attisdropped",
            table,
        )
    ]
    withheld = [
        name
        for name in names
        for table, column in [name.split(".")]
        if table in WITHHELD or (READABLE[table] and column not in READABLE[table])
    ]

    assert "rejects.head" in withheld
    # A credential's hash is readable under no name.
    assert [name for name in names if "hash" in name or "secret" in name] == [
        name for name in withheld if "hash" in name or "secret" in name
    ]
    for name in withheld:
        table, column = name.split(".")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch(f'SELECT "{column}" FROM {table}')  # noqa: S608


async def test_rights_that_are_as_they_should_be_are_not_touched(
    owner: asyncpg.Connection, role: tuple[str, str]
) -> None:
    before = await owner.fetch("SELECT relname, relacl, xmin FROM pg_class ORDER BY 1")

    assert await grant_reads(owner, role=role[0])

    assert await owner.fetch("SELECT relname, relacl, xmin FROM pg_class ORDER BY 1") == before
    assert await reads_differing(owner, role=role[0]) == []


async def test_rights_beyond_these_are_taken_away_and_lost_ones_given_again(
    owner: asyncpg.Connection, role: tuple[str, str]
) -> None:
    name = role[0]
    await owner.execute(f"GRANT INSERT, SELECT ON rejects, scooter_state TO {name}")
    await owner.execute(f"GRANT UPDATE (lat) ON scooter_events TO {name}")
    await owner.execute(f"REVOKE ALL ON late_reports FROM {name}")
    wrong = ["late_reports", "rejects", "scooter_events", "scooter_state"]
    assert await reads_differing(owner, role=name) == wrong

    await grant_reads(owner, role=name)

    assert await reads_differing(owner, role=name) == []
    query = "SELECT has_table_privilege($1, $2, $3)"
    assert not await owner.fetchval(query, name, "rejects", "SELECT")
    assert not await owner.fetchval(query, name, "scooter_state", "INSERT")
    assert await owner.fetchval(query, name, "late_reports", "SELECT")


async def test_without_the_role_nothing_happens(owner: asyncpg.Connection) -> None:
    before = await owner.fetch("SELECT relname, relacl FROM pg_class ORDER BY 1")

    assert not await grant_reads(owner, role="nobody_of_this_name")

    assert await owner.fetch("SELECT relname, relacl FROM pg_class ORDER BY 1") == before
    assert await reads_differing(owner, role="nobody_of_this_name") is None


async def test_whoever_migrates_need_not_be_a_superuser(postgres_server: PostgresService) -> None:
    database = f"test_{secrets.token_hex(6)}"
    superuser = await asyncpg.connect(postgres_server.url)
    async with postgres_role(postgres_server) as owner, postgres_role(postgres_server) as reader:
        await superuser.execute(f"CREATE DATABASE {database} OWNER {owner[0]} TEMPLATE template0")
        url = postgres_server.database_url(database)
        await migrate(as_login(url, *owner))
        connection = await asyncpg.connect(as_login(url, *owner))
        await connection.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        await grant_reads(connection, role=reader[0])
        await connection.close()

        connection = await asyncpg.connect(as_login(url, *reader))
        assert await connection.fetch("SELECT * FROM scooter_state") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM rejects")
        await connection.close()
        await superuser.execute(f"DROP DATABASE {database} WITH (FORCE)")
    await superuser.close()


async def test_migrate_grants_at_each_run_also_where_nothing_is_pending(
    postgres_url: str, owner: asyncpg.Connection
) -> None:
    """The role may be there already, made with the server, and then its rights are as well."""
    if not await owner.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", POSTGRES_READER):
        await owner.execute(f"CREATE ROLE {POSTGRES_READER}")
    await owner.execute(f"REVOKE ALL ON scooter_state FROM {POSTGRES_READER}")

    assert await migrate(postgres_url) == []

    assert await reads_differing(owner) == []
