"""Leases on a real Redis: one holder at a time, and a frozen one finds out before it acts."""

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from gateway.links.lease import Lease, instance_key
from gateway.local.servers import Servers
from gateway.storage.redis import open_redis
from tests.eventually import eventually

LEASE_S = 0.6

HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from gateway.links.lease import Lease
    from gateway.storage.redis import open_redis

    async def main():
        async with open_redis(sys.argv[1]) as redis:
            lease = Lease(redis, sys.argv[2], lease_s=float(sys.argv[3]))
            lease.when_lost(lambda reason: print("lost", reason, flush=True))
            task = asyncio.create_task(lease.run())
            await lease.wait_held()
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.readline)  # the test froze and woke us
            print("acts" if lease.is_held() else "stands by", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
    """
)


@contextlib.asynccontextmanager
async def running(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(lease.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_held(lease: Lease, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        await lease.wait_held()


async def test_a_second_one_stands_by_until_the_first_lets_go(redis: Redis, fresh_id: str) -> None:
    key = instance_key(fresh_id)
    first, second = (Lease(redis, key, lease_s=LEASE_S) for _ in range(2))
    async with running(first) as task:
        await until_held(first)
        async with running(second):
            for _ in range(50):
                assert not (first.is_held() and second.is_held())
                await redis.ping()
            assert first.is_held()
            task.cancel()
            await until_held(second)
            assert not first.is_held()
    assert await redis.get(key) is None


async def test_never_two_at_once_however_they_come_and_go(redis: Redis, fresh_id: str) -> None:
    leases = [Lease(redis, instance_key(fresh_id), lease_s=0.15) for _ in range(4)]
    held_by = set()

    async def come_and_go(number: int) -> None:
        for _ in range(5):
            async with running(leases[number]):
                with contextlib.suppress(TimeoutError):
                    await until_held(leases[number], within_s=0.3)
                    held_by.add(number)
                assert sum(lease.is_held() for lease in leases) <= 1

    async with asyncio.TaskGroup() as group:
        for number in range(len(leases)):
            group.create_task(come_and_go(number))
    assert len(held_by) > 1


async def test_it_is_renewed(redis: Redis, fresh_id: str) -> None:
    lease = Lease(redis, instance_key(fresh_id), lease_s=0.3)
    lost: list[str] = []
    lease.when_lost(lost.append)
    async with running(lease):
        await until_held(lease)
        token = await redis.get(instance_key(fresh_id))
        started = asyncio.get_running_loop().time()

        async def three_leases_passed() -> bool:
            assert lease.is_held()
            return asyncio.get_running_loop().time() - started > 0.9

        await eventually(three_leases_passed, what="three leases")
        assert await redis.get(instance_key(fresh_id)) == token
        assert lost == []


async def test_a_lease_that_another_took_is_lost(redis: Redis, fresh_id: str) -> None:
    lease = Lease(redis, instance_key(fresh_id), lease_s=0.3)
    lost: list[str] = []
    lease.when_lost(lost.append)
    async with running(lease):
        await until_held(lease)
        await redis.set(instance_key(fresh_id), "another", px=400)

        async def told() -> bool:
            return bool(lost)

        await eventually(told, what="the loss")
        assert not lease.is_held()
        await until_held(lease)
    assert lost == ["the lease was lost: another process has it"]


async def test_without_redis_it_lasts_until_it_runs_out(own_redis: Servers) -> None:
    async with open_redis(own_redis.redis_url, timeout_s=0.3) as redis:
        lease = Lease(redis, instance_key("g"), lease_s=LEASE_S)
        lost: list[str] = []
        lease.when_lost(lost.append)
        async with running(lease):
            await until_held(lease)
            own_redis.redis.pause()
            assert lease.is_held()

            async def told() -> bool:
                return bool(lost)

            await eventually(told, what="the end of the lease")
            assert not lease.is_held()
            own_redis.redis.resume()
            await until_held(lease)
        assert lost == ["the lease was lost: it ran out"]


async def test_a_frozen_holder_stands_by_when_it_wakes(redis_url: str, fresh_id: str) -> None:
    key = instance_key(fresh_id)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        redis_url,
        key,
        str(LEASE_S),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        await line_with(process.stdout, b"held")
        os.kill(process.pid, signal.SIGSTOP)
        async with open_redis(redis_url) as redis:
            lease = Lease(redis, key, lease_s=LEASE_S)
            async with running(lease):
                await until_held(lease)
                process.stdin.write(b"\n")
                os.kill(process.pid, signal.SIGCONT)
                assert b"ran out" in await line_with(process.stdout, b"lost")
                assert await line_with(process.stdout, b"stands by")
                assert lease.is_held()
    finally:
        process.kill()
        await process.wait()


async def line_with(stream: asyncio.StreamReader, word: bytes) -> bytes:
    """The next line that begins with `word`; the log's lines are passed over."""
    async with asyncio.timeout(10):
        while not (line := await stream.readline()).startswith(word):
            assert line, f"no line with {word!r}"
        return line
