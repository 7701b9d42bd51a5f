"""The Redis client gives up quickly, stops at once, and the server is checked at the start."""

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.local.servers import Servers
from gateway.storage.redis import AWAY, check_redis, is_away, open_redis

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "unix:///nowhere/redis.sock"]
)
async def test_a_client_opens_while_the_server_is_away_and_says_so_when_asked(url: str) -> None:
    async with open_redis(url) as redis:
        with pytest.raises(AWAY):
            await redis.ping()


async def test_a_cancelled_command_always_cancels_its_task(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        await redis.get("scooters:nothing")
        for turns in [*range(8)] * 25:
            task = asyncio.ensure_future(redis.get("scooters:nothing"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.done() and task.cancel():
                await asyncio.wait([task])
                assert task.cancelled()


async def test_a_frozen_server_is_given_up_on_after_the_timeout(own_redis: Servers) -> None:
    loop = asyncio.get_running_loop()
    async with open_redis(own_redis.redis_url, timeout_s=0.2) as redis:
        await redis.ping()
        own_redis.redis.pause()
        since = loop.time()
        with pytest.raises(AWAY):
            await redis.get("scooters:nothing")
        assert loop.time() - since < 1.0
        own_redis.redis.resume()

        assert await redis.ping()


async def test_an_answer_that_the_server_cannot_write_now_means_away(redis: Redis) -> None:
    with pytest.raises(Exception, match="MISCONF") as caught:
        await redis.eval("return redis.error_reply('MISCONF Errors writing to the AOF file')", 0)

    assert is_away(caught.value)


async def test_a_script_with_a_defect_does_not_mean_away(redis: Redis) -> None:
    with pytest.raises(Exception, match="no_such_thing") as caught:
        await redis.eval("return no_such_thing.field", 0)

    assert not is_away(caught.value)


async def test_the_shipped_settings_are_fine(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        assert await check_redis(redis) == []


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        ("maxmemory-policy", "allkeys-lru", "set maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "set maxmemory-policy noeviction"),
        ("appendonly", "no", "set appendonly yes"),
    ],
)
async def test_a_setting_that_loses_data_is_a_finding(
    own_redis: Servers, name: str, value: str, finding: str
) -> None:
    async with open_redis(own_redis.redis_admin_url) as redis:
        await redis.config_set(name, value)

        assert [finding in found for found in await check_redis(redis)] == [True]
