"""Erasing nulls where one scooter was, in a span of time, in every place, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.erase import erase
from tests.history import append, event, history
from tests.history import reject as a_reject

pytestmark = pytest.mark.integration

START = datetime(2026, 11, 23, 10, tzinfo=UTC)
END = START + timedelta(hours=1)
INSIDE = START + timedelta(minutes=30)
OUTSIDE = END + timedelta(minutes=30)
POSITION = {"lat": "52.5", "lon": "13.4", "accuracy_m": "5", "speed_kmh": "20", "heading_deg": "9"}


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


async def put_state(redis: Redis, scooter_id: str, at: datetime, **fields: str) -> None:
    state: dict[Any, Any] = {
        **POSITION,
        "position_at": str(ms(at)),
        "received_at": str(ms(at)),
        "battery_percent": "80",
        "version": "7",
        **fields,
    }
    await redis.hset(f"scooter:{scooter_id}", mapping=state)
    await redis.geoadd("scooters:position", (13.4, 52.5, scooter_id))


async def store_state(pool: asyncpg.Pool, scooter_id: str, at: datetime) -> None:
    await pool.execute(
        "INSERT INTO scooter_state (scooter_id, version, received_at, position_at, lat, lon,"
        " battery_percent, fields) VALUES ($1, 7, $2, $2, 52.5, 13.4, 80, $3)",
        *(scooter_id, at, orjson.dumps(POSITION | {"battery_percent": "80"}).decode()),
    )
    await pool.execute(
        "INSERT INTO scooter_snapshots (scooter_id, period_start, version, received_at,"
        " position_at, lat, lon, speed_kmh, battery_percent)"
        " VALUES ($1, $2, 7, $2, $2, 52.5, 13.4, 20, 80)",
        *(scooter_id, at),
    )


async def store_history(redis: Redis, pool: asyncpg.Pool, scooter_id: str, at: datetime) -> None:
    where = {"lat": 52.5, "lon": 13.4}
    for kind, body in (
        ("event", event(f"e{at:%H%M}", **where)),
        ("late", {**where, "acc": 5, "spd": 20, "hdg": 9, "batt": 80, "ts": ms(at)}),
        ("reject", a_reject(f"at {at:%H%M}", head=b'{"lat":52.5')),
    ):
        await append(redis, kind, body, scooter_id=scooter_id, at_ms=ms(at))
    await history(redis, pool).take()


async def test_positions_of_the_span_are_gone_from_every_table_and_others_stay(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    for scooter_id, at in (("SC-0001", INSIDE), ("SC-0002", INSIDE)):
        await put_state(redis, scooter_id, at)
        await store_state(pool, scooter_id, at)
        await store_history(redis, pool, scooter_id, at)
    await store_history(redis, pool, "SC-0001", OUTSIDE)

    counts = await erase(pool, redis, "SC-0001", START, END)

    assert counts == {
        "scooter:state": 1,
        "scooters:history": 0,
        "scooter_state": 1,
        "scooter_snapshots": 1,
        "scooter_events": 1,
        "late_reports": 1,
        "rejects": 1,
    }
    for table in ("scooter_state", "scooter_snapshots", "scooter_events", "late_reports"):
        left = f"SELECT scooter_id, received_at FROM {table} WHERE num_nonnulls(lat, lon) > 0"  # noqa: S608
        others = {(row[0], row[1]) for row in await pool.fetch(left)}
        assert ("SC-0001", INSIDE) not in others
        assert ("SC-0002", INSIDE) in others
    text = await pool.fetch(
        "SELECT fields::text FROM scooter_state WHERE scooter_id = 'SC-0001' UNION ALL"
        " SELECT body::text FROM late_reports WHERE scooter_id = 'SC-0001' AND received_at = $1",
        INSIDE,
    )
    assert all("80" in row[0] and "52.5" not in row[0] for row in text)
    heads = await pool.fetch(
        "SELECT head FROM rejects WHERE scooter_id = 'SC-0001' ORDER BY reason"
    )
    assert [row[0] for row in heads] == [b"", b'{"lat":52.5']
    assert await pool.fetchval("SELECT count(*) FROM scooter_events WHERE lat IS NOT NULL") == 2


async def test_a_position_that_was_reported_late_counts_by_the_scooters_clock_too(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    await append(redis, "event", event("1", lat=1, lon=2, ts=ms(INSIDE)), at_ms=ms(OUTSIDE))
    await append(redis, "late", {"lat": 1, "lon": 2, "ts": ms(INSIDE)}, at_ms=ms(OUTSIDE))
    await history(redis, pool).take()

    counts = await erase(pool, redis, "SC-0001", START, END)

    assert (counts["scooter_events"], counts["late_reports"]) == (1, 1)


async def test_a_state_in_redis_loses_its_position_and_rises_so_that_snapshots_follow(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    await put_state(redis, "SC-0001", INSIDE)

    await erase(pool, redis, "SC-0001", START, END)

    state = await redis.hgetall("scooter:SC-0001")
    assert not {name.encode() for name in [*POSITION, "position_at"]} & state.keys()
    assert state[b"battery_percent"] == b"80"
    assert int(state[b"version"]) > 7
    assert await redis.zscore("scooters:dirty", "SC-0001") is not None
    assert await redis.geopos("scooters:position", "SC-0001") == [None]


async def test_a_state_outside_the_span_is_left_as_it_is(redis: Redis, pool: asyncpg.Pool) -> None:
    await put_state(redis, "SC-0001", END)
    before = await redis.hgetall("scooter:SC-0001")

    counts = await erase(pool, redis, "SC-0001", START, END)

    assert counts["scooter:state"] == 0
    assert await redis.hgetall("scooter:SC-0001") == before
    assert await redis.zcard("scooters:dirty") == 0


async def test_what_is_remembered_of_an_older_boot_loses_its_position_and_keeps_its_order(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    kept = {"order": [3, 8, 0], "texts": ["52.5", "13.4", False], "at": str(ms(INSIDE))}
    lock = {"order": [3, 8, 0], "texts": ["locked", False], "at": str(ms(INSIDE))}
    aside = {"3": {"position": kept, "lock": lock}}
    await put_state(redis, "SC-0001", OUTSIDE, aside=orjson.dumps(aside).decode())

    assert (await erase(pool, redis, "SC-0001", START, END))["scooter:state"] == 1

    state = await redis.hgetall("scooter:SC-0001")
    assert state[b"lat"] == b"52.5"
    left = orjson.loads(state[b"aside"])
    assert left["3"] == {"position": {"order": [3, 8, 0], "texts": {}, "at": False}, "lock": lock}


async def test_a_snapshot_from_before_cannot_bring_the_position_back_into_the_state(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    await put_state(redis, "SC-0001", INSIDE, version="1000")
    await store_state(pool, "SC-0001", INSIDE)

    await erase(pool, redis, "SC-0001", START, END)

    in_redis = int((await redis.hgetall("scooter:SC-0001"))[b"version"])
    stored = await pool.fetchval("SELECT version FROM scooter_state")
    assert 1000 < stored < in_redis


async def test_what_waits_in_the_stream_is_waited_for(redis: Redis, pool: asyncpg.Pool) -> None:
    await append(redis, "event", event("1", lat=1, lon=2), at_ms=ms(INSIDE))
    erasing = asyncio.create_task(erase(pool, redis, "SC-0001", START, END))
    await history(redis, pool).take()

    counts = await erasing

    assert (counts["scooters:history"], counts["scooter_events"]) == (0, 1)


async def test_what_postgres_does_not_have_in_time_is_told(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    await append(redis, "event", event("1", lat=1, lon=2), at_ms=ms(INSIDE))

    counts = await erase(pool, redis, "SC-0001", START, END, wait_s=0)

    assert counts["scooters:history"] == 1
