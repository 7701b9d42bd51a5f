"""Whatever a scooter sends is kept: identical rejects as a count, bad rows as rejects."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.state_store import HISTORY
from tests.history import Receipts, append, event, events, history, rejects
from tests.history import reject as a_reject

pytestmark = pytest.mark.integration

DAY_MS = 86_400_000
NOON_MS = 1_795_435_200_000  # 2026-11-23T12:00Z


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


async def test_identical_rejects_of_a_day_are_one_row_with_a_count(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    for at_ms in (NOON_MS + 1, NOON_MS, NOON_MS + 2, NOON_MS + DAY_MS):
        await append(redis, "reject", a_reject("lat: too large"), at_ms=at_ms)
    await append(redis, "reject", a_reject("lat: too large", head=b"other"), at_ms=NOON_MS)

    taker = history(redis, pool, page=2)
    for _ in range(3):
        await taker.take()

    rows = await pool.fetch("SELECT count, last_at - first_at AS span FROM rejects ORDER BY count")
    assert [row["count"] for row in rows] == [1, 1, 3]
    assert rows[-1]["span"].total_seconds() == 0.002


@pytest.mark.parametrize(
    ("kind", "poison"),
    [
        ("event", event("p", d="a\0b")),
        ("event", b'{"id":"p","ev":"fall","boot":18446744073709551615}'),
        ("event", event("p", lat="north")),
        ("event", b'{"id":"p"}'),
        ("event", b'{"id":"p","ev":7}'),
        ("late", {"bid": "\0"}),
        ("late", {"boot": 2**64 - 1, "seq": 1}),
        ("late", b'{"odo":1e400000}'),
        ("late", b'{"bid":"\\ud800"}'),
        ("late", b"[1]"),
        ("late", b"not JSON"),
        ("reject", {"topic": "no more"}),
        ("nonsense", event("p")),
    ],
    ids=str,
)
async def test_a_bad_row_is_kept_as_a_reject_and_the_rest_of_its_page_is_stored(
    redis: Redis, pool: asyncpg.Pool, kind: str, poison: dict[str, object] | bytes
) -> None:
    receipts = Receipts()
    for number in range(100):
        await append(redis, "event", event(f"a{number:02}"))
    await append(redis, kind, poison)
    for number in range(100):
        await append(redis, "event", event(f"b{number:02}"))

    await history(redis, pool, receipts).take()

    assert len(await events(pool)) == 200
    assert list((await rejects(pool)).values()) == [1]
    # A poisoned event that told its id is stored as a reject: the scooter may delete it.
    assert ("p" in receipts.event_ids) == (kind == "event")
    assert len(receipts.event_ids) == 200 + (kind == "event")


async def test_many_bad_rows_among_good_ones_are_all_kept(redis: Redis, pool: asyncpg.Pool) -> None:
    for number in range(64):
        await append(redis, "event", event(f"{number}", d="\0" if number % 3 == 0 else "fine"))

    await history(redis, pool).take()

    assert len(await events(pool)) == 42
    assert sum((await rejects(pool)).values()) == 22


@pytest.mark.parametrize("reason", ["NUL \0 inside", "é" * 5000, ""], ids=["nul", "long", "none"])
async def test_a_reject_is_stored_whatever_it_holds(
    redis: Redis, pool: asyncpg.Pool, reason: str
) -> None:
    body = a_reject(reason, head=bytes(range(256)) * 2) | {"topic": "\0/#", "size": 2**40}
    await append(redis, "reject", body, scooter_id="")

    await history(redis, pool).take()

    row = await pool.fetchrow("SELECT * FROM rejects")
    assert row["head"] == bytes(range(256))
    assert row["scooter_id"] is None


async def test_an_undecodable_event_that_told_its_id_has_a_receipt(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    receipts = Receipts()
    await append(redis, "reject", a_reject("lat: too large", event_id="1-9"))
    await append(redis, "reject", a_reject("payload: not JSON"))

    await history(redis, pool, receipts).take()

    assert receipts.sent == [("SC-0001", ["1-9"])]


async def test_a_missing_partition_is_no_bad_row(redis: Redis, pool: asyncpg.Pool) -> None:
    await pool.execute("DROP TABLE scooter_events_default")
    await append(redis, "event", event("1-1"))

    with pytest.raises(asyncpg.CheckViolationError):
        await history(redis, pool).take()

    assert await rejects(pool) == {}
    assert await redis.xlen(HISTORY) == 1
