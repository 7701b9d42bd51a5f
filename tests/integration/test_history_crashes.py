"""A crash anywhere between Redis and Postgres leaves each entry stored exactly once."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import asyncpg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.local.servers import Servers
from gateway.metrics import Metrics
from gateway.storage.postgres import migrate, open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.history import drain
from gateway.telemetry.state_store import HISTORY
from tests.eventually import end, eventually
from tests.history import Receipts, append, counted, event, events, recount, rejects
from tests.history import reject as a_reject

pytestmark = pytest.mark.integration

STEPS = ["read", "stored", "committed", "receipted", "trimmed"]
Step = Callable[[str], Awaitable[None]]


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


async def append_some(redis: Redis, prefix: str) -> None:
    """Three events of which one is a copy, two equal rejects and a third, one late report."""
    for event_id in ("1", "2", "2"):
        await append(redis, "event", event(f"{prefix}{event_id}"))
    for reason in ("same", "same", prefix):
        await append(redis, "reject", a_reject(reason))
    await append(redis, "late", {"boot": 1, "seq": 1})


@asynccontextmanager
async def draining(
    redis: Redis, pool: asyncpg.Pool, receipts: Receipts, *, step: Step | None = None
) -> AsyncIterator[None]:
    loop = partial(drain, redis, pool, send_receipts=receipts, metrics=Metrics())
    task = asyncio.create_task(loop(step=step) if step else loop(), name="drain")
    try:
        yield
    finally:
        await end(task)


async def emptied(redis: Redis) -> bool:
    return await redis.xlen(HISTORY) == 0


@pytest.mark.parametrize("step", STEPS)
async def test_a_gateway_killed_after_any_step_leaves_one_row_an_event_and_true_counts(
    redis: Redis, pool: asyncpg.Pool, redis_url: str, postgres_url: str, step: str
) -> None:
    for prefix in ("a", "b"):
        await append_some(redis, prefix)
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.drain_process", redis_url, postgres_url, step)
        )
        assert await killed.wait() == -signal.SIGKILL
        assert await counted(redis) == await recount(redis)

    await append_some(redis, "c")
    async with draining(redis, pool, Receipts()):
        await eventually(lambda: emptied(redis), what="an empty stream")

    assert sorted(await events(pool)) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert await rejects(pool) == {"same": 6, "a": 1, "b": 1, "c": 1}
    assert await pool.fetchval("SELECT count(*) FROM late_reports") == 1
    assert await counted(redis) == 0


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_that_dies_after_any_step_costs_nothing(
    redis: Redis, pool: asyncpg.Pool, postgres_url: str, step: str
) -> None:
    cuts = [step, step]

    async def cut(name: str) -> None:
        if cuts and name == cuts[-1]:
            cuts.pop()
            await kill_backends(postgres_url)

    async def both_cuts() -> bool:
        return not cuts

    receipts = Receipts()
    await append_some(redis, "a")
    async with draining(redis, pool, receipts, step=cut):
        await eventually(lambda: emptied(redis), what="an empty stream")
        await append_some(redis, "b")
        await eventually(lambda: emptied(redis), what="an empty stream")
        await eventually(both_cuts, what="the second cut")

    async with open_postgres(postgres_url) as unhurt:
        assert sorted(await events(unhurt)) == ["a1", "a2", "b1", "b2"]
        assert await rejects(unhurt) == {"same": 4, "a": 1, "b": 1}
    assert set(receipts.event_ids) == {"a1", "a2", "b1", "b2"}


async def kill_backends(postgres_url: str) -> None:
    """End every connection of the gateway to this database."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'scooter-gateway'"
        )
    finally:
        await connection.close()


async def test_nothing_is_lost_while_postgres_is_away(own_servers: Servers) -> None:
    url = own_servers.postgres_url
    await migrate(url)
    receipts = Receipts()
    async with (
        open_redis(own_servers.redis_admin_url) as redis,
        open_postgres(url) as pool,
        draining(redis, pool, receipts),
    ):
        await append(redis, "event", event("before"))
        await eventually(lambda: emptied(redis), what="an empty stream")

        await asyncio.to_thread(own_servers.postgres.kill)
        for number in range(50):
            await append(redis, "event", event(f"during-{number:02}"))
            await append(redis, "reject", a_reject("same"))
        assert receipts.event_ids == ["before"]
        assert await redis.xlen(HISTORY) == 100

        await asyncio.to_thread(own_servers.postgres.start)
        await eventually(lambda: emptied(redis), within_s=30, what="an empty stream")

        assert await events(pool) == ["before", *(f"during-{number:02}" for number in range(50))]
        assert await rejects(pool) == {"same": 50}
        assert len(receipts.event_ids) == 51


@pytest.mark.parametrize("step", ["read", "committed", "trimmed"])
async def test_nothing_is_lost_or_doubled_when_redis_is_killed_after_a_step(
    own_servers: Servers, step: str
) -> None:
    await migrate(own_servers.postgres_url)
    kills = [step]

    async with (
        open_redis(own_servers.redis_admin_url) as redis,
        open_postgres(own_servers.postgres_url) as pool,
    ):

        async def kill(name: str) -> None:
            if kills and name == kills[0]:
                kills.pop()
                await _is_on_disk(redis)
                await asyncio.to_thread(own_servers.redis.kill)
                await asyncio.to_thread(own_servers.redis.start)

        await append_some(redis, "a")
        async with draining(redis, pool, Receipts(), step=kill):
            await eventually(lambda: _is_empty_now(redis), what="an empty stream")
            await eventually(lambda: _counts_nothing(redis), what="nothing counted")

        assert sorted(await events(pool)) == ["a1", "a2"]
        assert await rejects(pool) == {"same": 2, "a": 1}
        assert not kills


async def _is_on_disk(redis: Redis) -> None:
    """Redis may hold its file's end back for a moment, and a kill loses that: not meant here."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.set("on_disk", 1)
        pipe.execute_command("WAITAOF", 1, 0, 10_000)
        assert (await pipe.execute())[1][0] == 1


async def _counts_nothing(redis: Redis) -> bool:
    with suppress(Exception):
        return await counted(redis) == 0
    return False


async def _is_empty_now(redis: Redis) -> bool:
    with suppress(Exception):
        return await emptied(redis)
    return False


async def test_a_frozen_postgres_is_waited_for_and_its_batch_repeated(own_servers: Servers) -> None:
    await migrate(own_servers.postgres_url)
    with capture_logs() as lines:
        async with (
            open_redis(own_servers.redis_admin_url) as redis,
            open_postgres(own_servers.postgres_url, timeout_s=0.5) as pool,
            draining(redis, pool, Receipts()),
        ):
            await append(redis, "event", event("before"))
            await eventually(lambda: emptied(redis), what="an empty stream")

            own_servers.postgres.pause()
            await append_some(redis, "a")
            await eventually(lambda: _said(lines, "away"), what="a line about it")
            own_servers.postgres.resume()
            await eventually(lambda: emptied(redis), within_s=30, what="an empty stream")

            assert await rejects(pool) == {"same": 2, "a": 1}
            assert sorted(await events(pool)) == ["a1", "a2", "before"]
            await eventually(lambda: _said(lines, "back"), what="a line that it is back")

    assert [line["event"] for line in lines if line.get("what") == "history"] == ["away", "back"]


async def _said(lines: Sequence[Mapping[str, object]], what: str) -> bool:
    return any(line["event"] == what and line.get("what") == "history" for line in lines)


async def test_a_drain_stops_at_once_while_postgres_is_frozen(own_servers: Servers) -> None:
    await migrate(own_servers.postgres_url)
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()

    async def step(name: str) -> None:
        if name == "read":
            own_servers.postgres.pause()
            reached.set()

    async with open_redis(own_servers.redis_admin_url) as redis:
        async with (
            open_postgres(own_servers.postgres_url) as pool,
            draining(redis, pool, Receipts(), step=step),
        ):
            await append(redis, "event", event("1"))
            await reached.wait()
            since = loop.time()
        assert loop.time() - since < 5
        assert await redis.xlen(HISTORY) == 1
    own_servers.postgres.resume()


async def test_a_gateway_that_stands_by_takes_nothing_for_which_it_cannot_send_receipts(
    redis: Redis, pool: asyncpg.Pool
) -> None:
    standing_by, holding = Receipts(), Receipts()
    never = asyncio.Event().wait
    standby = asyncio.create_task(
        drain(redis, pool, send_receipts=standing_by, metrics=Metrics(), may_take=never)
    )
    for number in range(20):
        await append(redis, "event", event(f"1-{number}"))

        async with draining(redis, pool, holding):

            async def stored(count: int = number + 1) -> bool:
                return bool(await pool.fetchval("SELECT count(*) FROM scooter_events") == count)

            await eventually(stored, what="the event")
    await end(standby)

    assert await pool.fetchval("SELECT count(*) FROM scooter_events") == 20
    assert not standing_by.sent
