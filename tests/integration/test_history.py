"""What the history promises: each event once, bad rows kept, receipts after the commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.history import History, drain
from gateway.telemetry.history_stream import HISTORY_LIFE
from gateway.telemetry.state_store import HISTORY, HISTORY_BYTES
from tests.eventually import eventually
from tests.history import Receipts, append, counted, event, events, history, recount, rejects
from tests.history import reject as a_reject

pytestmark = pytest.mark.integration

NOON_MS = 1_795_435_200_000  # 2026-11-23T12:00Z


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


async def test_an_event_becomes_a_row_with_both_clocks(redis: Redis, pool: asyncpg.Pool) -> None:
    told = event("1-1", ts=NOON_MS - 5000, boot=3, seq=7, lat=52.5, lon=13, d="E7")
    await append(redis, "event", told, at_ms=NOON_MS)

    assert await history(redis, pool).take() == 1

    row = await pool.fetchrow("SELECT * FROM scooter_events")
    assert dict(row) | {"stored_at": None} == {
        "scooter_id": "SC-0001",
        "event_id": "1-1",
        "event_type": "fall",
        "recorded_at": datetime(2026, 11, 23, 11, 59, 55, tzinfo=UTC),
        "received_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
        "boot": 3,
        "seq": 7,
        "lat": 52.5,
        "lon": 13.0,
        "detail": "E7",
        "stored_at": None,
    }


@pytest.mark.parametrize("told_ms", [0, 1, NOON_MS + 60_001, 2**53, 1.5e300], ids=str)
async def test_a_clock_that_is_not_believed_is_left_out_and_the_event_kept(
    redis: Redis, pool: asyncpg.Pool, told_ms: float
) -> None:
    await append(redis, "event", event("1-1", ts=told_ms), at_ms=NOON_MS)

    await history(redis, pool).take()

    assert await pool.fetchval("SELECT recorded_at IS NULL FROM scooter_events")


async def test_an_event_sent_again_is_one_row_and_has_its_receipt_again(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    receipts = Receipts()
    taker = history(redis, pool, receipts)

    for again in (1, 2):
        await append(redis, "event", event("1-1"))
        await append(redis, "event", event("1-1"))
        await append(redis, "event", event("1-1"), scooter_id="SC-0002")
        await taker.take()
        assert receipts.sent == [("SC-0001", ["1-1"]), ("SC-0002", ["1-1"])] * again

    assert await pool.fetchval("SELECT count(*) FROM scooter_events") == 2


@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        ({"boot": 1, "seq": 2, "batt": 5}, {"boot": 1, "seq": 2, "batt": 5}, 1),
        ({"boot": 1, "seq": 2, "batt": 5}, {"boot": 1, "seq": 3, "batt": 5}, 2),
        ({"batt": 5, "ts": NOON_MS}, {"ts": NOON_MS, "batt": 5}, 1),
        ({"batt": 5, "ts": NOON_MS}, {"batt": 5, "ts": NOON_MS + 1}, 2),
        ({"seq": 2, "batt": 5}, {"seq": 2, "batt": 6}, 2),
    ],
    ids=["same order", "next seq", "same body", "other body", "seq without boot"],
)
async def test_a_late_report_sent_again_is_one_row(
    redis: Redis,
    pool: asyncpg.Pool,
    first: dict[str, object],
    second: dict[str, object],
    rows: int,
) -> None:
    await append(redis, "late", first)
    await append(redis, "late", second)
    await append(redis, "late", first)

    await history(redis, pool, page=2).take()
    await history(redis, pool, page=2).take()

    assert await pool.fetchval("SELECT count(*) FROM late_reports") == rows


async def test_receipts_are_sent_only_after_the_commit(redis: Redis, pool: asyncpg.Pool) -> None:
    seen: list[bool] = []

    async def look(scooter_id: str, event_ids: list[str]) -> None:
        stored = "SELECT count(*) FROM scooter_events WHERE scooter_id = $1 AND event_id = ANY ($2)"
        seen.append(await pool.fetchval(stored, scooter_id, event_ids) == len(event_ids))

    for number in range(10):
        await append(redis, "event", event(f"{number}"), scooter_id=f"SC-000{number % 3}")

    await history(redis, pool, look).take()

    assert seen == [True, True, True]


async def test_receipts_that_cannot_be_sent_are_logged_once_and_nothing_waits_for_them(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    async def fail(_scooter_id: str, _event_ids: list[str]) -> None:
        raise ServerAway("mqtt", "no connection")

    taker = history(redis, pool, fail)
    with capture_logs() as lines:
        for number in range(3):
            await append(redis, "event", event(f"{number}"))
            await taker.take()

    assert len(await events(pool)) == 3
    assert await redis.xlen(HISTORY) == 0
    assert [(line["event"], line["what"]) for line in lines] == [("away", "receipts")]


async def test_a_receipt_follows_its_event_within_a_third_of_a_second(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    receipts, loop = Receipts(), asyncio.get_running_loop()
    draining = asyncio.create_task(
        drain(redis, pool, send_receipts=receipts, metrics=Metrics()), name="drain"
    )
    try:
        await append(redis, "event", event("first"))
        await eventually(lambda: _told(receipts, "first"), what="the first receipt")
        since = loop.time()
        await append(redis, "event", event("second"))
        await eventually(lambda: _told(receipts, "second"), what="the second receipt")
        assert loop.time() - since < 0.3
    finally:
        draining.cancel()
        with suppress(asyncio.CancelledError):
            await draining


async def _told(receipts: Receipts, event_id: str) -> bool:
    return event_id in receipts.event_ids


async def test_the_bytes_of_the_stream_are_those_of_what_it_holds_after_every_page(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    taker = history(redis, pool, page=7)
    for number in range(50):
        await append(redis, "event", event(f"{number}", d="é" * (number % 9)))
    left = 50
    while left := await redis.xlen(HISTORY):
        await append(redis, "late", {"batt": left}) if left % 2 else None
        await taker.take()
        assert await counted(redis) == await recount(redis)

    assert await redis.get(HISTORY_BYTES) == b"0"


async def test_two_gateways_drain_one_stream_without_a_duplicate(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    receipts = Receipts()
    draining = [
        asyncio.create_task(drain(redis, pool, send_receipts=receipts, metrics=Metrics()))
        for _ in range(2)
    ]
    try:
        for number in range(500):
            await append(redis, "event", event(f"{number}"))
            await append(redis, "reject", a_reject("same"))
        await eventually(lambda: _is_empty(redis), what="an empty stream")
    finally:
        for each in draining:
            each.cancel()
        await asyncio.gather(*draining, return_exceptions=True)

    assert len(await events(pool)) == 500
    assert await rejects(pool) == {"same": 500}
    assert sorted(receipts.event_ids) == sorted(f"{number}" for number in range(500))
    assert await counted(redis) == 0


async def _is_empty(redis: Redis) -> bool:
    return await redis.xlen(HISTORY) == 0


@pytest.mark.parametrize(
    "lost",
    [[HISTORY, HISTORY_BYTES, HISTORY_LIFE], [HISTORY, HISTORY_BYTES]],
    ids=["all", "stream"],
)
async def test_a_stream_that_begins_anew_with_older_ids_is_not_skipped(
    redis: Redis, pool: asyncpg.Pool, lost: list[str]
) -> None:
    taker = history(redis, pool)
    await append(redis, "event", event("before"), at_ms=NOON_MS)
    await taker.take()

    await redis.delete(*lost)
    await taker.take()
    await append(redis, "event", event("after"), entry_id="1000-0", at_ms=NOON_MS + 1)
    assert await taker.wait()
    await taker.take()
    await append(redis, "event", event("later"), entry_id="1000-1", at_ms=NOON_MS + 2)
    await taker.take()

    assert await events(pool) == ["before", "after", "later"]
    assert await redis.xlen(HISTORY) == 0


async def test_an_emptied_redis_is_noticed_even_when_its_new_ids_are_past_the_cursor(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    taker = history(redis, pool)
    await append(redis, "event", event("before"), entry_id="5000-0", at_ms=NOON_MS)
    await taker.take()

    await redis.delete(HISTORY, HISTORY_BYTES, HISTORY_LIFE)
    await append(redis, "event", event("behind"), entry_id="4000-0", at_ms=NOON_MS + 1)
    await append(redis, "event", event("past"), entry_id="6000-0", at_ms=NOON_MS + 2)
    await taker.take()

    assert await events(pool) == ["before", "behind", "past"]


async def test_the_gauges_tell_length_bytes_and_age(redis: Redis, pool: asyncpg.Pool) -> None:
    metrics = Metrics()
    taker = History(redis, pool, send_receipts=Receipts(), metrics=metrics)
    await append(redis, "event", event("1-1"), entry_id="1000-0")
    await append(redis, "event", event("1-2"))

    await taker.wait()

    read = metrics.registry.get_sample_value
    assert read("gateway_history_entries") == 2
    assert read("gateway_history_bytes") == await recount(redis)
    assert (read("gateway_history_oldest_seconds") or 0) > 1_000_000

    await taker.take()

    assert read("gateway_history_entries") == read("gateway_history_bytes") == 0
    assert read("gateway_history_rows_total", {"kind": "event"}) == 2
    assert read("gateway_receipted_events_total") == 2
