"""Several gateways that do not share telemetry are noticed, by their leases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.links.lease import PRIMARY, instance_key
from gateway.neighbours import not_shared, running_instances, watch_neighbours
from gateway.storage.redis import open_redis
from tests.eventually import eventually


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


async def hold(redis: Redis, *instances: str) -> None:
    for each in instances:
        await redis.set(instance_key(each), "token", px=60_000)


async def test_whoever_holds_a_name_runs_and_the_primary_is_no_name(redis: Redis) -> None:
    await hold(redis, "gateway-1", "b")
    await redis.set(PRIMARY, "token", px=60_000)
    await redis.hset("scooter:SC-0001", "presence", "online")

    assert await running_instances(redis) == ["b", "gateway-1"]


def test_one_gateway_need_not_share() -> None:
    assert not_shared(["gateway-1"]) is None
    assert "SCOOTER_MQTT_SHARED" in (not_shared(["gateway-1", "gateway-2"]) or "")


async def test_a_gateway_that_does_not_share_warns_once_of_others(redis: Redis) -> None:
    await hold(redis, "gateway-1")
    with capture_logs() as lines:
        watching = asyncio.create_task(watch_neighbours(redis, period_s=0.01))
        await hold(redis, "gateway-2")

        async def warned(count: int) -> list[Any] | None:
            return list(lines) if len(lines) >= count else None

        await eventually(lambda: warned(1), what="a warning")
        await hold(redis, "gateway-3")
        found = await eventually(lambda: warned(2), what="another warning")
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    assert [each["log_level"] for each in found] == ["warning", "warning"]
    assert "gateway-1, gateway-2)" in found[0]["problem"]
    assert "gateway-1, gateway-2, gateway-3)" in found[1]["problem"]
