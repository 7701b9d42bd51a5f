"""The registry's copy in Redis: for a start without Postgres, and never an older one."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.operators import Operators
from devices.registry import NewScooter, Registry, Standing
from gateway.local.servers import Servers
from gateway.registry_keeper import MirrorKeeper
from gateway.registry_mirror import HEAD, Copy, Mirror
from gateway.registry_source import Interned, Reading, read_registry
from gateway.storage.postgres import migrate, open_postgres
from gateway.storage.redis import open_redis
from tests.eventually import eventually
from tests.registry_copies import (
    HASH,
    NOWHERE,
    following,
    loaded,
    mirror_key,
    mirrored,
    until,
)

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backoff of our own `Outage`, without its seconds."""
    monkeypatch.setattr("gateway.outage.random.uniform", lambda _low, _high: 0.02)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
def registry(pool: asyncpg.Pool) -> Registry:
    return Registry(pool)


def take(keeper: MirrorKeeper, reading: Reading, *, before: Reading | None = None) -> None:
    """As the gateway's copy hands it on."""
    scooters = (before.scooters if before else {}) | reading.scooters
    copy = Copy(reading.stamp, scooters, reading.rights, time.time())
    changed = None if reading.is_whole else reading.scooters
    keeper.take(copy, changed, began_at=reading.began_at)


async def test_a_gateway_starts_from_redis_while_postgres_is_away(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    operators = Operators(pool)
    await operators.add("alice", by="me")
    await operators.grant("alice", ["lock"], ["a"], by="me")
    await operators.add_key("alice.laptop", HASH, by="me")
    await registry.add([NewScooter(f"SC-{n:04}", tags=("a", "b")) for n in range(3000)], by="me")
    await registry.set_credentials({"SC-0001": HASH}, by="me")
    await registry.set_standing("SC-0001", Standing.RETIRED, by="me")
    async with following(pool, redis):
        await mirrored(redis, lambda found: found.get("SC-0001") == "retired 1 a b")

    async with open_postgres(NOWHERE) as nowhere, following(nowhere, redis) as copy:
        await loaded(copy)

        assert copy.standing("SC-0001") is Standing.RETIRED
        assert copy.standing("SC-2999") is Standing.REGISTERED
        assert copy.standing("SC-3000") is None
        assert (copy.tags("SC-0001"), copy.generation("SC-0001")) == (frozenset("ab"), 1)
        assert copy.operator_of("alice.laptop") == "alice"
        assert copy.may("alice.laptop", "lock", frozenset("a"))
        assert not copy.may("alice.laptop", "lock", frozenset("b"))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("rights", "not json"),
        ("rights", '{"keys":{}}'),
        ("rights", '{"keys":{},"granted":{"alice":["lock"]}}'),
        ("count", "many"),
        ("read_at", ""),
        ("SC-1", "emperor 1 a"),
        ("SC-1", "active"),
    ],
)
async def test_a_copy_that_somebody_spoilt_is_no_copy_and_ends_no_gateway(
    pool: asyncpg.Pool, redis: Redis, registry: Registry, field: str, text: str
) -> None:
    await registry.add([NewScooter("SC-1")], by="me")
    async with following(pool, redis):
        await mirrored(redis, lambda found: "SC-1" in found)
    key = await mirror_key(redis) if field == "SC-1" else HEAD
    await redis.hset(key, field, text)

    assert await Mirror(redis).read(Interned()) is None


async def test_with_neither_nothing_is_known_until_one_of_them_is_there(
    own_postgres: Servers, redis: Redis
) -> None:
    await migrate(own_postgres.postgres_url)
    await asyncio.to_thread(own_postgres.postgres.stop)

    async with open_postgres(own_postgres.postgres_url) as pool, following(pool, redis) as copy:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await copy.loaded.wait()

        await asyncio.to_thread(own_postgres.postgres.start)
        await loaded(copy)


async def test_a_redis_that_is_away_or_emptied_delays_no_change_and_is_written_again(
    pool: asyncpg.Pool, own_redis: Servers, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1")], by="me")
    async with (
        open_redis(own_redis.redis_url, timeout_s=0.5) as redis,
        open_redis(own_redis.redis_admin_url) as admin,
        following(pool, redis) as copy,
    ):
        await mirrored(redis, lambda found: found == {"SC-1": "registered 0"})
        await asyncio.to_thread(own_redis.redis.kill)
        await registry.set_standing("SC-1", Standing.ACTIVE, by="me")
        await until(copy, "SC-1", Standing.ACTIVE)
        await asyncio.to_thread(own_redis.redis.start)
        await mirrored(redis, lambda found: found == {"SC-1": "active 0"})

        await admin.flushall()
        await registry.set_standing("SC-1", Standing.SUSPENDED, by="me")
        await mirrored(redis, lambda found: found == {"SC-1": "suspended 0"})


async def test_an_older_copy_never_takes_the_place_of_a_newer_one(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")
    older, newer = MirrorKeeper(Mirror(redis)), MirrorKeeper(Mirror(redis))
    async with pool.acquire() as connection:
        first = await read_registry(connection, Interned(), since=None)
        await registry.set_standing("SC-1", Standing.ACTIVE, by="me")
        second = await read_registry(connection, Interned(), since=None)
        take(older, first)
        take(newer, second)

        assert await newer.write()
        assert not await older.write()
        await mirrored(redis, lambda found: found["SC-1"] == "active 0")

        # What both bring afterwards fits on what is there, whoever is first.
        third = await read_registry(connection, Interned(), since=first)
        await registry.set_standing("SC-2", Standing.ACTIVE, by="me")
        fourth = await read_registry(connection, Interned(), since=second)
        take(newer, fourth, before=second)
        take(older, third, before=first)
        assert await newer.write()
        assert not await older.write()
    await mirrored(redis, lambda found: found == {"SC-1": "active 0", "SC-2": "active 0"})


async def test_a_copy_from_before_postgres_was_restored_gives_way(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1")], by="me")
    async with following(pool, redis):
        await mirrored(redis, lambda found: "SC-1" in found)
    await redis.hset(HEAD, "stamp", "9" * 48)
    await registry.set_standing("SC-1", Standing.ACTIVE, by="me")

    async with following(pool, redis, period_s=0.1):
        await mirrored(redis, lambda found: found == {"SC-1": "active 0"})


async def test_a_copy_that_lost_some_of_its_rows_is_not_loaded_and_is_written_again(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")
    async with following(pool, redis, period_s=0.1):
        await mirrored(redis, lambda found: len(found) == 2)
        await redis.hdel(await mirror_key(redis), "SC-1")
        await mirrored(redis, lambda found: len(found) == 2)

    await redis.hdel(await mirror_key(redis), "SC-1")
    assert await Mirror(redis).read(Interned()) is None


async def test_writers_leave_one_copy(
    pool: asyncpg.Pool, redis_admin: Redis, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter(f"SC-{n:04}") for n in range(2500)], by="me")
    async with (
        following(pool, redis) as one,
        following(pool, redis) as two,
        following(pool, redis) as three,
    ):
        for copy in (one, two, three):
            await loaded(copy)
        await mirrored(redis, lambda found: len(found) == 2500)

        async def one_copy() -> bool:
            keys = [key async for key in redis_admin.scan_iter("gateway:registry*")]
            return len(keys) == 2 and await redis_admin.ttl(sorted(keys)[1]) == -1

        await eventually(one_copy, what="one copy that stays")
