"""A crash at every step between Redis and Postgres, and outages of both: the right rows remain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.local.servers import Servers
from gateway.metrics import Metrics
from gateway.storage.migrate import migrate
from gateway.storage.postgres import AWAY, open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.snapshots import DirtySet, Step, write_round, write_snapshots
from gateway.telemetry.state_store import CLAIMS, DIRTY
from tests.eventually import end, eventually
from tests.telemetry import Fleet, telemetry

PERIOD_S = 3600.0
FLEET = [f"SC-{n:04}" for n in range(20)]
STEPS = ["claimed", "copied", "written", "committed", "cleared"]


class Crashed(BaseException):
    """The process died here."""


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


async def report(fleet: Fleet, seq: int, ids: list[str] = FLEET) -> None:
    await fleet.take(*(telemetry(scooter_id, boot=1, seq=seq, batt=seq) for scooter_id in ids))


async def write(fleet: Fleet, pool: asyncpg.Pool, step: Step | None = None) -> int:
    dirty, began_ms = DirtySet(fleet.redis), await DirtySet(fleet.redis).now_ms()
    while await dirty.now_ms() <= began_ms:  # a round takes marks from before it began
        pass
    extra = {"step": step} if step else {}
    return await write_round(dirty, pool, period_s=PERIOD_S, metrics=Metrics(), **extra)


async def claims_run_out(redis: Redis) -> None:
    for scooter_id in await redis.hkeys(CLAIMS):
        await redis.hset(CLAIMS, scooter_id, "1")


async def check_rows(fleet: Fleet, pool: asyncpg.Pool, batt: int) -> None:
    """One snapshot and one state of every scooter, as Redis has it, and nothing left to do."""
    for table in ("scooter_snapshots", "scooter_state"):
        rows = await pool.fetch(
            f"SELECT scooter_id, battery_percent, version FROM {table} ORDER BY scooter_id"  # noqa: S608 - our own tables
        )
        versions = [int((await fleet.state(scooter_id))["version"]) for scooter_id in FLEET]
        assert [tuple(row) for row in rows] == [
            (scooter_id, batt, version) for scooter_id, version in zip(FLEET, versions, strict=True)
        ]
    assert await fleet.redis.zcard(DIRTY) == await fleet.redis.hlen(CLAIMS) == 0


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("written_before", [False, True])
async def test_after_a_crash_the_next_round_ends_with_exactly_the_right_rows(
    fleet: Fleet, pool: asyncpg.Pool, at: str, *, written_before: bool
) -> None:
    async def crash(name: str) -> None:
        if name == at:
            raise Crashed

    await report(fleet, 1)
    if written_before:
        await write(fleet, pool)
        await report(fleet, 2)
    with pytest.raises(Crashed):
        await write(fleet, pool, crash)

    await claims_run_out(fleet.redis)
    await write(fleet, pool)

    await check_rows(fleet, pool, 1 + written_before)


@pytest.mark.parametrize("at", STEPS)
async def test_a_round_that_is_cancelled_leaves_nothing_undone_for_the_next(
    fleet: Fleet, pool: asyncpg.Pool, at: str
) -> None:
    reached = asyncio.Event()

    async def stay(name: str) -> None:
        if name == at:
            reached.set()
            await asyncio.Event().wait()

    await report(fleet, 1)
    round_ = asyncio.create_task(write(fleet, pool, stay))
    await reached.wait()
    round_.cancel()
    with suppress(asyncio.CancelledError):
        await end(round_)

    await claims_run_out(fleet.redis)
    await write(fleet, pool)

    await check_rows(fleet, pool, 1)


@pytest.mark.parametrize("at", ["claimed", "copied", "written"])
async def test_a_killed_connection_gives_the_claims_back_for_the_next_round(
    fleet: Fleet, pool: asyncpg.Pool, postgres_url: str, at: str
) -> None:
    await report(fleet, 1)
    await write(fleet, pool)  # so that a pooled connection is there
    await report(fleet, 2)
    killer = await asyncpg.connect(postgres_url)

    async def kill(name: str) -> None:
        if name == at:
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    try:
        await write(fleet, pool, kill)
    except AWAY:
        assert await fleet.redis.zcard(DIRTY) == len(FLEET)
        await write(fleet, pool)
    finally:
        await killer.close()

    await check_rows(fleet, pool, 2)


async def test_a_redis_emptied_before_the_clear_ends_the_round(
    fleet: Fleet, pool: asyncpg.Pool, redis_admin: Redis
) -> None:
    await fleet.load()
    await report(fleet, 1)

    async def empty(name: str) -> None:
        if name == "committed":
            await redis_admin.flushall()

    assert await write(fleet, pool, empty) == len(FLEET)
    assert await fleet.redis.zcard(DIRTY) == 0


async def test_postgres_away_for_periods_costs_resolution_and_nothing_else(
    own_servers: Servers,
) -> None:
    metrics = Metrics()
    await migrate(own_servers.postgres_url)
    async with (
        open_redis(own_servers.redis_url) as redis,
        open_postgres(own_servers.postgres_url, timeout_s=2.0) as pool,
    ):
        fleet = Fleet(redis)
        await fleet.load()
        own_servers.postgres.kill()
        writing = asyncio.create_task(
            write_snapshots(DirtySet(redis), pool, period_s=0.05, metrics=metrics)
        )
        for seq in range(1, 11):
            await report(fleet, seq)
            assert (await fleet.state(FLEET[0]))["battery_percent"] == str(seq)
            assert await redis.zcard(DIRTY) == len(FLEET)
        own_servers.postgres.start()

        async def is_clean() -> bool:
            return await redis.zcard(DIRTY) == 0

        await eventually(is_clean, within_s=30, what="the snapshots after the outage")
        await end(writing)
        await check_rows(fleet, pool, 10)


async def test_redis_away_ends_a_round_with_server_away(pool: asyncpg.Pool) -> None:
    async with open_redis("redis://127.0.0.1:1") as nobody:
        with pytest.raises(ServerAway):
            await write_round(DirtySet(nobody), pool, period_s=1, metrics=Metrics())
