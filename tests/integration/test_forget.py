"""A retired scooter leaves nothing behind that would show it as if it were still there."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.links.broker import BrokerAddress
from gateway.links.probe import open_probe
from gateway.links.retained import clear_status
from gateway.storage.postgres import open_postgres
from gateway.telemetry.changes import changes
from gateway.telemetry.forget import forget_row, forget_state
from gateway.telemetry.state_store import CHANGES, CLAIMS
from tests.command_line import receive
from tests.eventually import eventually

REPORT = {"boot": 1, "seq": 7, "lat": 48.1371, "lon": 11.5754, "batt": 82}


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


async def test_nothing_in_redis_names_a_forgotten_scooter_and_the_others_stay(
    redis: Redis,
) -> None:
    for scooter_id in ("SC-0001", "SC-0002"):
        await receive(redis, scooter_id, "telemetry", REPORT)

    removed = await forget_state(redis, "SC-0001")
    again = await forget_state(redis, "SC-0001")

    sets = ("scooters:dirty", "scooters:last_seen", "scooters:deadlines", "scooters:position")
    left = {name: await redis.zrange(name, 0, -1) for name in sets}
    assert (removed, again) == (5, 0)
    assert left == {name: [b"SC-0002"] for name in sets}
    assert [key async for key in redis.scan_iter("scooter:*")] == [b"scooter:SC-0002"]


async def test_live_views_are_told_that_every_field_is_gone(redis: Redis) -> None:
    await receive(redis, "SC-0001", "telemetry", REPORT)
    subscribed, told = asyncio.Event(), []

    async def follow() -> None:
        async for change in changes(redis, subscribed=subscribed):
            if change is not None:
                told.append(change)
                return

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await subscribed.wait()
        await forget_state(redis, "SC-0001")

    assert told[0].scooter_id == "SC-0001"
    assert {"lat", "presence", "battery_percent"} <= told[0].fields.keys()
    assert set(told[0].fields.values()) == {None}
    assert not any(name.endswith("_order") for name in told[0].fields)


async def test_the_row_goes_after_the_snapshot_that_was_being_written(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    in_ten_s = int((time.time() + 10) * 1000)
    await redis.hset(CLAIMS, mapping={"SC-0001": in_ten_s, "SC-0002": in_ten_s})
    forgetting = asyncio.create_task(forget_row(pool, redis, "SC-0001"))
    await pool.execute(
        "INSERT INTO scooter_state (scooter_id, version, fields)"
        " SELECT unnest('{SC-0001,SC-0002}'::text[]), 1, '{}'"
    )
    assert not forgetting.done()
    await redis.hdel(CLAIMS, "SC-0001")  # as the snapshot's writer does after its commit

    assert await forgetting == 1
    assert await pool.fetchval("SELECT array_agg(scooter_id) FROM scooter_state") == ["SC-0002"]
    assert await redis.hget(CLAIMS, "SC-0002") == str(in_ten_s).encode()


async def test_a_cleared_status_is_delivered_to_nobody_who_comes_later(
    broker: BrokerAddress, scooter_id: str
) -> None:
    topic = f"scooters/{scooter_id}/status"
    await publish_retained(broker, topic, b'{"s":"online"}')
    assert await retained(broker, topic) == [b'{"s":"online"}']

    assert await clear_status(broker, scooter_id)
    assert await clear_status(broker, scooter_id)

    assert await retained(broker, topic) == []


async def publish_retained(broker: BrokerAddress, topic: str, payload: bytes) -> None:
    async with open_probe(broker) as probe:
        await probe.connect(broker, "sets-status", clean_start=True, session_expiry_s=0)
        assert await probe.publish(topic, payload, retain=True)
        probe.leave()


async def retained(broker: BrokerAddress, topic: str) -> list[bytes]:
    """What somebody who subscribes now gets, before a message that is sent after it."""
    async with open_probe(broker) as probe:
        await probe.connect(broker, "reads-status", clean_start=True, session_expiry_s=0)
        await probe.subscribe(topic, "gateway/reads-status/echo")
        await probe.publish("gateway/reads-status/echo", b"", packet_id=2)

        async def echoed() -> bool:
            await probe.receive(len(probe.deliveries) + 1, within_s=1.0)
            return any(each.topic != topic for each in probe.deliveries)

        await eventually(echoed, what="the echo")
        probe.leave()
        return [each.payload for each in probe.deliveries if each.topic == topic]


async def test_live_views_are_not_told_of_a_scooter_that_nobody_knows(redis: Redis) -> None:
    async with redis.pubsub() as channel:
        await channel.subscribe(CHANGES)
        await channel.get_message(timeout=5)

        assert await forget_state(redis, "SC-0009") == 0
        await redis.publish(CHANGES, "next")

        heard = await channel.get_message(timeout=5)
    assert heard is not None
    assert heard["data"] == b"next"
