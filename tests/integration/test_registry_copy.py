"""The gateway's copy of the registry: what committed is known at once and nothing is missed."""

import asyncio
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.operators import Operators
from devices.registry import NewScooter, Registry, Standing
from gateway.errors import StartRefused
from gateway.local.servers import Servers
from gateway.metrics import Metrics
from gateway.registry_copy import RegistryCopy
from gateway.storage.postgres import migrate, open_postgres
from gateway.storage.redis import open_redis
from tests.eventually import eventually
from tests.proxy import Proxy
from tests.registry_copies import (
    HASH,
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


def proxied(url: str, proxy: Proxy) -> str:
    parts = urlsplit(url)
    return parts._replace(
        netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
    ).geturl()


def proxy_to(url: str) -> Proxy:
    parts = urlsplit(url)
    return Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)


async def test_what_is_there_and_what_changes_is_known(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1", tags=("a", "b")), NewScooter("SC-2")], by="me")
    metrics = Metrics()

    async with following(pool, redis, metrics=metrics) as copy:
        await loaded(copy)
        assert copy.standing("SC-1") is Standing.REGISTERED
        assert (copy.tags("SC-1"), copy.generation("SC-1")) == (frozenset("ab"), 0)
        assert (copy.standing("SC-9"), copy.tags("SC-9"), copy.generation("SC-9")) == (
            None,
            frozenset(),
            0,
        )

        await registry.set_credentials({"SC-1": HASH}, by="me")
        await registry.set_standing("SC-1", Standing.ACTIVE, by="me")
        await registry.add([NewScooter("SC-3")], by="me")

        await until(copy, "SC-1", Standing.ACTIVE)
        await until(copy, "SC-3", Standing.REGISTERED)
        assert copy.generation("SC-1") == 1
        assert metrics.value("gateway_registry_scooters") == 3
        assert copy.age_s() < 60


async def test_rights_and_keys_are_known_as_they_change(pool: asyncpg.Pool, redis: Redis) -> None:
    operators = Operators(pool)
    await operators.add("alice", by="me")
    await operators.grant("alice", ["lock"], ["berlin"], by="me")
    await operators.grant("alice", ["locate"], by="me")
    await operators.add_key("alice.laptop", HASH, by="me")
    berlin, hamburg = frozenset({"berlin", "x"}), frozenset({"hamburg"})

    async with following(pool, redis) as copy:
        await loaded(copy)
        assert copy.operator_of("alice.laptop") == "alice"
        assert copy.operator_of("alice.phone") is None
        assert copy.may("alice.laptop", "lock", berlin)
        assert not copy.may("alice.laptop", "lock", hamburg)
        assert not copy.may("alice.laptop", "unlock", berlin)
        assert copy.may("alice.laptop", "locate", frozenset())
        assert not copy.may("alice.phone", "locate", berlin)
        assert not copy.may("alice", "locate", berlin)

        await operators.grant("alice", ["*"], ["hamburg"], by="me")
        await operators.ungrant("alice", ["lock"], ["berlin"], by="me")

        async def changed() -> bool:
            return copy.may("alice.laptop", "unlock", hamburg) and not copy.may(
                "alice.laptop", "lock", berlin
            )

        await eventually(changed, what="the rights")
        await operators.revoke_key("alice.laptop", by="me")

        async def revoked() -> bool:
            return copy.operator_of("alice.laptop") is None

        await eventually(revoked, what="the key revoked")
        assert not copy.may("alice.laptop", "locate", hamburg)


async def test_nothing_is_missed_when_transactions_commit_out_of_order(
    postgres_url: str, pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")
    slow = await asyncpg.connect(postgres_url)

    async with following(pool, redis) as copy:
        await loaded(copy)
        block = slow.transaction()
        await block.start()
        await slow.execute("UPDATE scooters SET standing = 'suspended' WHERE scooter_id = 'SC-1'")
        for standing in (Standing.SUSPENDED, Standing.ACTIVE, Standing.SUSPENDED):
            await registry.set_standing("SC-2", standing, by="me")
            await until(copy, "SC-2", standing)
        assert copy.standing("SC-1") is Standing.REGISTERED

        await block.commit()

        await until(copy, "SC-1", Standing.SUSPENDED)
    await slow.close()


async def test_any_interleaving_of_transactions_ends_in_what_postgres_has(
    postgres_url: str, pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    ids = [f"SC-{number}" for number in range(10, 30)]
    await registry.add([NewScooter(each) for each in ids], by="me")
    order = random.Random(7)  # noqa: S311 - not a secret

    async def change(seed: int) -> None:
        connection = await asyncpg.connect(postgres_url)
        for number in range(15):
            async with connection.transaction():
                await connection.execute(
                    "UPDATE scooters SET tags = ARRAY[$2] WHERE scooter_id = $1",
                    order.choice(ids),
                    f"t{seed}-{number}",
                )
                await connection.execute("SELECT pg_sleep($1)", order.random() / 50)
        await connection.close()

    async with following(pool, redis) as one, following(pool, redis) as two:
        await loaded(one)
        await asyncio.gather(*(change(seed) for seed in range(4)))
        truth = {each.scooter_id: frozenset(each.tags) async for each in registry.find()}

        async def equal() -> bool:
            return all({each: copy.tags(each) for each in ids} == truth for copy in (one, two))

        await eventually(equal, what="both copies as in Postgres")
        in_redis = {each: " ".join(["registered 0", *tags]) for each, tags in truth.items()}
        await mirrored(redis, lambda found: found == in_redis)


async def test_rows_that_a_person_deleted_are_gone(
    pool: asyncpg.Pool, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")

    async with following(pool, redis) as copy:
        await loaded(copy)
        await pool.execute("DELETE FROM scooters WHERE scooter_id = 'SC-1'")
        await until(copy, "SC-1", None)
        await mirrored(redis, lambda found: set(found) == {"SC-2"})
        await pool.execute("TRUNCATE scooters")
        await until(copy, "SC-2", None)
        await mirrored(redis, lambda found: not found)


async def test_what_changed_while_the_connection_was_lost_is_known_again(
    postgres_url: str, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")
    async with (
        proxy_to(postgres_url) as proxy,
        open_postgres(proxied(postgres_url, proxy)) as pool,
        following(pool, redis) as copy,
    ):
        await loaded(copy)
        proxy.cut()
        await registry.set_standing("SC-1", Standing.SUSPENDED, by="me")
        await until(copy, "SC-1", Standing.SUSPENDED)

        # Then it listens again.
        await registry.set_standing("SC-2", Standing.SUSPENDED, by="me")
        await until(copy, "SC-2", Standing.SUSPENDED)


async def test_a_connection_that_says_nothing_any_more_is_replaced(
    postgres_url: str, redis: Redis, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1")], by="me")
    async with (
        proxy_to(postgres_url) as proxy,
        open_postgres(proxied(postgres_url, proxy), timeout_s=0.5) as pool,
        following(pool, redis, period_s=0.2) as copy,
    ):
        await loaded(copy)
        proxy.swallow = True
        await registry.set_standing("SC-1", Standing.SUSPENDED, by="me")
        made = proxy.connections

        async def replaced() -> bool:
            return proxy.connections > made

        await eventually(replaced, what="another connection")
        assert copy.standing("SC-1") is Standing.REGISTERED
        proxy.swallow = False
        proxy.cut()
        await until(copy, "SC-1", Standing.SUSPENDED)


async def test_what_is_known_counts_while_postgres_is_dead_and_changes_when_it_is_back(
    own_postgres: Servers, redis: Redis
) -> None:
    await migrate(own_postgres.postgres_url)
    async with open_postgres(own_postgres.postgres_url) as pool, following(pool, redis) as copy:
        await Registry(pool).add([NewScooter("SC-1")], by="me")
        await loaded(copy)
        await until(copy, "SC-1", Standing.REGISTERED)

        await asyncio.to_thread(own_postgres.postgres.kill)
        age_s = copy.age_s()

        async def ages() -> bool:
            return copy.age_s() > age_s + 0.1

        await eventually(ages, what="an age that grows")
        assert copy.standing("SC-1") is Standing.REGISTERED
        await asyncio.to_thread(own_postgres.postgres.start)
        async with open_postgres(own_postgres.postgres_url) as fresh:
            await Registry(fresh).set_standing("SC-1", Standing.SUSPENDED, by="me")
        await until(copy, "SC-1", Standing.SUSPENDED)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_it_can_be_cancelled_anywhere(
    pool: asyncpg.Pool, redis: Redis, registry: Registry, turns: int
) -> None:
    await registry.add([NewScooter(f"SC-{n:04}") for n in range(2500)], by="me")
    async with following(pool, redis):
        for _ in range(turns):
            await asyncio.sleep(0)

    assert await pool.fetchval("SELECT 1") == 1
    whole = await mirror_key(redis)
    left = [key async for key in redis.scan_iter("gateway:registry:scooters:*")]
    assert all([await redis.ttl(key) > 0 for key in left if key.decode() != whole])
    async with following(pool, redis) as copy:
        await loaded(copy)
        await mirrored(redis, lambda found: len(found) == 2500)


async def test_a_frozen_postgres_does_not_keep_it_from_being_cancelled(
    own_postgres: Servers, redis: Redis
) -> None:
    await migrate(own_postgres.postgres_url)
    async with open_postgres(own_postgres.postgres_url) as pool:
        async with following(pool, redis, period_s=0.05) as copy:
            await loaded(copy)
            own_postgres.postgres.pause()
            age_s = copy.age_s()

            async def ages() -> bool:
                return copy.age_s() > age_s + 0.3

            await eventually(ages, what="a reading that waits")
        own_postgres.postgres.resume()


async def test_missing_tables_end_the_service_with_what_to_do(
    empty_postgres_url: str, redis: Redis
) -> None:
    async with open_postgres(empty_postgres_url) as pool:
        copy = RegistryCopy(pool, redis, metrics=Metrics())
        with pytest.raises(ExceptionGroup) as failure:
            await copy.run()

    refused = failure.value.exceptions[0]
    assert isinstance(refused, StartRefused)
    assert "scooter migrate" in refused.sentences[0]


async def test_a_hundred_thousand_are_loaded_and_alike_ones_share_their_memory(
    pool: asyncpg.Pool, redis: Redis
) -> None:
    await pool.execute(
        "INSERT INTO scooters (scooter_id, vehicle_id, vehicle_type, standing, tags)"
        " SELECT 'SC-' || n, 'SC-' || n, 'scooter_standing', 'active', ARRAY['berlin', 'blue']"
        " FROM generate_series(100000, 199999) AS n",
        timeout=60,
    )
    metrics = Metrics()

    async with following(pool, redis, metrics=metrics) as copy:
        await loaded(copy)

        assert metrics.value("gateway_registry_scooters") == 100_000
        assert copy.tags("SC-100000") is copy.tags("SC-199999")
        await mirrored(redis, lambda found: len(found) == 100_000)
