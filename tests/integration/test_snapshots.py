"""Write-behind: at most one row a scooter and period, and the newest state for refilling."""

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.telemetry.columns import WHOLE_STATE
from gateway.telemetry.snapshots import (
    CHUNK,
    LANES,
    DirtySet,
    let_snapshot_end,
    write_chunk,
    write_round,
)
from gateway.telemetry.state_store import CLAIMS, DIRTY
from tests.telemetry import FULL_REPORT, NOW_MS, Fleet, batch, telemetry

ID = "SC-0001"
PERIOD_S = 3600.0


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


async def write(redis: Redis, pool: asyncpg.Pool, *, period_s: float = PERIOD_S) -> int:
    """A round that takes what was marked before it: Redis' clock must have moved on since."""
    dirty = DirtySet(redis)
    marks: Any = await redis.zrange(DIRTY, -1, -1, withscores=True)
    while marks and await dirty.now_ms() <= marks[0][1]:
        pass
    return await write_round(dirty, pool, period_s=period_s, metrics=Metrics())


async def stored(pool: asyncpg.Pool) -> list[tuple[str, float]]:
    rows = await pool.fetch(
        "SELECT scooter_id, battery_percent FROM scooter_snapshots ORDER BY period_start"
    )
    return [tuple(row) for row in rows]


async def test_a_snapshot_has_every_field_of_the_state(fleet: Fleet, pool: asyncpg.Pool) -> None:
    await fleet.take(telemetry(ID, **FULL_REPORT))

    assert await write(fleet.redis, pool) == 1

    row = dict(await pool.fetchrow("SELECT * FROM scooter_state"))
    measured = datetime.fromtimestamp((NOW_MS - 500) / 1000, UTC)
    arrived = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    expected = {
        **dict.fromkeys(("recorded_at", "position_at", "battery_at"), measured),
        **dict.fromkeys(("lock_at", "device_at"), measured),
        **dict.fromkeys(("received_at", "presence_at"), arrived),
        "lat": 52.5200081,
        "lon": -13.4049541,
        "accuracy_m": 4.5,
        "speed_kmh": 18.3,
        "heading_deg": 271,
        "battery_percent": 87,
        "battery_mv": 40700,
        "range_m": 21750,
        "charging": False,
        "battery_id": "B204817",
        "lock": "unlocked",
        "tipped_over": True,
        "odometer_m": 999999999.5,
        "signal_dbm": -71,
        "firmware": "2.4.1",
        "presence": "online",
        "scooter_id": ID,
    }
    state_only = {"uptime_ms": 86_400_123, "interval_s": 5, "boot": 12, "wake_s": None}
    assert {name: row[name] for name in expected | state_only} == expected | state_only
    snapshot = dict(await pool.fetchrow("SELECT * FROM scooter_snapshots"))
    assert {name: snapshot[name] for name in expected} == expected
    assert snapshot["version"] == row["version"]
    assert snapshot["period_start"].timestamp() == row["version"] / 1e6 // PERIOD_S * PERIOD_S
    hash_now: Any = await fleet.redis.hgetall(f"scooter:{ID}")
    whole = await pool.fetchval(f"SELECT {WHOLE_STATE} FROM scooter_state")  # noqa: S608
    assert orjson.loads(whole) == {k.decode(): v.decode() for k, v in hash_now.items()}


async def test_an_unknown_field_is_null(fleet: Fleet, pool: asyncpg.Pool) -> None:
    await fleet.take(batch(ID, {"boot": 1, "seq": 1, "lock": "locked"}))

    await write(fleet.redis, pool)

    row = dict(await pool.fetchrow("SELECT * FROM scooter_snapshots"))
    known = {name for name, value in row.items() if value is not None}
    assert known == {"scooter_id", "period_start", "version", "lock", "stored_at"}


@pytest.mark.parametrize(
    "text",
    ["\t", "\n", "\r\n", "\\", "\\N", "\\.", '"', "'", "ä€😀", "\\u0041", "\x01\x7f", "", " "],
    ids=ascii,
)
async def test_any_text_survives_the_way_to_postgres(
    fleet: Fleet, pool: asyncpg.Pool, text: str
) -> None:
    await fleet.take(
        telemetry(ID, boot=1, seq=1, bid=text, fw=f"a{text}b"), telemetry("SC-0002", batt=2)
    )

    assert await write(fleet.redis, pool) == 2

    row = await pool.fetchrow("SELECT * FROM scooter_state WHERE scooter_id = $1", ID)
    assert (row["battery_id"], row["firmware"]) == (text, f"a{text}b")


async def test_a_period_has_one_row_with_the_last_state(fleet: Fleet, pool: asyncpg.Pool) -> None:
    for batt in (1, 2, 3):
        await fleet.take(telemetry(ID, boot=1, seq=batt, batt=batt))
        await write(fleet.redis, pool)

    assert await stored(pool) == [(ID, 3)]


async def test_each_period_has_a_row_of_its_own(fleet: Fleet, pool: asyncpg.Pool) -> None:
    for batt in (1, 2, 3):
        await fleet.take(telemetry(ID, boot=1, seq=batt, batt=batt))
        await write(fleet.redis, pool, period_s=0.001)

    assert await stored(pool) == [(ID, 1), (ID, 2), (ID, 3)]
    assert await pool.fetchval("SELECT battery_percent FROM scooter_state") == 3


async def test_what_did_not_change_is_not_written(fleet: Fleet, pool: asyncpg.Pool) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1))
    await write(fleet.redis, pool)
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1), telemetry(ID, boot=1, seq=0, batt=1))

    assert await write(fleet.redis, pool, period_s=0.001) == 0
    assert await fleet.redis.zcard(DIRTY) == 0


async def test_the_same_written_again_changes_nothing(fleet: Fleet, pool: asyncpg.Pool) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1))
    await write(fleet.redis, pool)
    before = [
        await pool.fetch(f"SELECT * FROM {table}")  # noqa: S608 - our own tables
        for table in ("scooter_snapshots", "scooter_state")
    ]
    await fleet.redis.zadd(DIRTY, {ID: 1})

    assert await write(fleet.redis, pool) == 0

    after = [
        await pool.fetch(f"SELECT * FROM {table}")  # noqa: S608 - our own tables
        for table in ("scooter_snapshots", "scooter_state")
    ]
    assert after == before


async def test_a_change_during_the_write_keeps_the_scooter_dirty(
    fleet: Fleet, pool: asyncpg.Pool
) -> None:
    dirty = DirtySet(fleet.redis)
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1), telemetry("SC-0002", batt=1))
    began_ms = await dirty.now_ms() + 1
    claimed = await dirty.claim(marked_before_ms=began_ms)
    await fleet.take(telemetry(ID, boot=1, seq=2, batt=2))

    await dirty.clear(claimed)

    marks: Any = await fleet.redis.zrange(DIRTY, 0, -1, withscores=True)
    assert [mark[0] for mark in marks] == [ID.encode()]
    assert marks[0][1] >= began_ms - 1
    await write(fleet.redis, pool)
    assert await stored(pool) == [(ID, 2)]


async def test_writers_at_once_share_the_fleet_without_writing_twice(
    fleet: Fleet, pool: asyncpg.Pool
) -> None:
    for start in range(0, 2500, 250):
        await fleet.take(*(telemetry(f"SC-{start + n:04}", batt=1) for n in range(250)))

    counts = await asyncio.gather(*(write(fleet.redis, pool) for _ in range(3)))

    assert sum(counts) == 2500
    assert await pool.fetchval("SELECT count(*) FROM scooter_snapshots") == 2500
    assert await fleet.redis.zcard(DIRTY) == await fleet.redis.hlen(CLAIMS) == 0


async def test_a_round_of_more_chunks_than_go_at_once_leaves_nothing(
    fleet: Fleet, pool: asyncpg.Pool
) -> None:
    many = (LANES + 2) * CHUNK
    for start in range(0, many, 250):
        await fleet.take(*(telemetry(f"SC-{start + n:05}", batt=1) for n in range(250)))

    assert await write(fleet.redis, pool) == many
    assert await fleet.redis.zcard(DIRTY) == await fleet.redis.hlen(CLAIMS) == 0


async def test_a_claim_that_someone_else_made_unreadable_holds_nothing_up(
    fleet: Fleet, pool: asyncpg.Pool
) -> None:
    await fleet.take(*(telemetry(f"SC-{n:04}", batt=1) for n in range(3)))
    await fleet.redis.hset(CLAIMS, "SC-0001", "soon")

    async with asyncio.timeout(1):
        await let_snapshot_end(fleet.redis, "SC-0001", math.inf)
    assert await write(fleet.redis, pool) == 3


async def test_two_writers_of_the_same_chunk_write_it_once(
    fleet: Fleet, pool: asyncpg.Pool
) -> None:
    await fleet.take(*(telemetry(f"SC-{n:04}", boot=1, seq=1, batt=1) for n in range(200)))
    dirty = DirtySet(fleet.redis)
    soon = await dirty.now_ms() + 1000
    first = await dirty.claim(marked_before_ms=soon)
    await fleet.redis.delete(CLAIMS)  # as when the claim ran out
    second = (await dirty.claim(marked_before_ms=soon))[::-1]

    counts = await asyncio.gather(
        *(write_chunk(pool, chunk, period_s=PERIOD_S) for chunk in (first, second) * 4)
    )

    assert sum(counts) == 200


@pytest.mark.parametrize(
    "tampered",
    [
        {"lat": "north"},
        {"lat": "1\t2"},
        {"lat": "1\n\\.\n"},
        {"received_at": "9" * 30},
        {"version": "none"},
        {"firmware": b"\xff\xfe"},
        {"battery_id": b"\0"},
        {"charging": "maybe"},
        {"strange": "\0"},
    ],
    ids=repr,
)
async def test_a_state_that_postgres_cannot_take_does_not_stop_the_others(
    fleet: Fleet, pool: asyncpg.Pool, tampered: dict[str, str | bytes]
) -> None:
    await fleet.take(*(telemetry(f"SC-{n:04}", batt=n) for n in range(9)))
    await fleet.redis.hset("scooter:SC-0004", mapping=dict(tampered))  # type: ignore[arg-type]

    with capture_logs() as logs:
        written = await write(fleet.redis, pool)

    refused = [line for line in logs if line["log_level"] == "error"]
    assert written == 9 - len(refused)
    assert len(refused) == (0 if "firmware" in tampered else 1)
    assert await fleet.redis.zcard(DIRTY) == 0


@pytest.mark.parametrize("how", ["gone", "other type", "no version"])
async def test_a_key_that_is_no_state_is_passed_over(
    fleet: Fleet, pool: asyncpg.Pool, how: str
) -> None:
    await fleet.take(*(telemetry(f"SC-{n:04}", batt=n) for n in range(3)))
    if how == "no version":
        await fleet.redis.hdel("scooter:SC-0001", "version")
    else:
        await fleet.redis.delete("scooter:SC-0001")
    if how == "other type":
        await fleet.redis.set("scooter:SC-0001", "x")

    assert await write(fleet.redis, pool) == 2
    assert await fleet.redis.zcard(DIRTY) == 0
