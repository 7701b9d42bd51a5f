"""Reading the registry: what may have changed since, and everything when time went back."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from devices.registry import NewScooter, Registry, Standing
from gateway.registry_source import Interned, read_registry
from gateway.storage.postgres import open_postgres

pytestmark = pytest.mark.integration


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
def registry(pool: asyncpg.Pool) -> Registry:
    return Registry(pool)


async def test_a_reading_takes_just_what_may_have_changed(
    pool: asyncpg.Pool, registry: Registry
) -> None:
    await registry.add([NewScooter(f"SC-{n:03}") for n in range(100)], by="me")
    async with pool.acquire() as connection:
        first = await read_registry(connection, Interned(), since=None)
        await registry.set_standing("SC-007", Standing.ACTIVE, by="me")
        second = await read_registry(connection, Interned(), since=first)
        third = await read_registry(connection, Interned(), since=second)

    assert (first.is_whole, len(first.scooters)) == (True, 100)
    assert (second.is_whole, list(second.scooters)) == (False, ["SC-007"])
    assert third.scooters == {}
    assert first.stamp < second.stamp <= third.stamp


async def test_a_postgres_that_went_back_in_time_is_read_whole(
    pool: asyncpg.Pool, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1")], by="me")
    async with pool.acquire() as connection:
        first = await read_registry(connection, Interned(), since=None)
        object.__setattr__(first, "stamp", "9" * len(first.stamp))
        second = await read_registry(connection, Interned(), since=first)

    assert second.is_whole
    assert list(second.scooters) == ["SC-1"]


async def test_rows_with_numbers_of_another_server_are_not_read_again_and_again(
    pool: asyncpg.Pool, registry: Registry
) -> None:
    await registry.add([NewScooter("SC-1"), NewScooter("SC-2")], by="me")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("ALTER TABLE scooters DISABLE TRIGGER changed_in")
        await connection.execute("UPDATE scooters SET changed_in = '99999999999'")
        await connection.execute("ALTER TABLE scooters ENABLE TRIGGER changed_in")
    async with pool.acquire() as connection:
        first = await read_registry(connection, Interned(), since=None)
        await registry.set_standing("SC-2", Standing.ACTIVE, by="me")
        second = await read_registry(connection, Interned(), since=first)

    assert len(first.scooters) == 2
    assert list(second.scooters) == ["SC-2"]
