import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from redis.asyncio import Redis

from devices.console.exits import Exit
from devices.registry import NewScooter, Registry
from gateway.local.servers import Servers
from gateway.storage.redis import open_redis
from tests.command_line import environment, receive, scooter, start
from tests.eventually import eventually

REPORT = {
    "boot": 1,
    "seq": 7,
    "lat": 48.1371,
    "lon": 11.5754,
    "spd": 12.5,
    "batt": 82,
    "chg": False,
}


async def test_watch_tells_each_change_as_a_line(redis: Redis, redis_url: str) -> None:
    async with watching(redis, redis_url) as lines:
        await receive(redis, "XX-0001", "telemetry", REPORT)
        await receive(redis, "SC-0001", "telemetry", REPORT)
        at, scooter_id, *fields = (await lines.readline()).decode().split()

    assert at.endswith("Z")
    assert scooter_id == "SC-0001"
    assert "lat=48.1371" in fields


async def test_watch_tells_each_change_as_a_line_of_json(redis: Redis, redis_url: str) -> None:
    async with watching(redis, redis_url, "--json") as lines:
        await receive(redis, "SC-0001", "telemetry", REPORT)
        change = json.loads(await lines.readline())

    assert change["scooter_id"] == "SC-0001"
    assert (change["fields"]["lat"], change["fields"]["charging"]) == (48.1371, False)


async def test_watch_by_tag_tells_only_of_those_that_have_it(
    redis: Redis, redis_url: str, postgres_url: str
) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:
        scooters = [NewScooter("SC-0001", tags=("depot",)), NewScooter("SC-0002", tags=("munich",))]
        await Registry(pool).add(scooters, by="tests")
    arguments = ("--tag", "munich", "--json")
    async with watching(redis, redis_url, *arguments, postgres_url=postgres_url) as lines:
        for scooter_id in ("SC-0001", "SC-0002"):
            await receive(redis, scooter_id, "telemetry", REPORT)
        change = json.loads(await lines.readline())

    assert change["scooter_id"] == "SC-0002"


async def test_watch_by_tag_needs_postgres(redis_url: str) -> None:
    ended = await scooter("watch", "--tag", "munich", redis_url=redis_url)

    assert ended.code == Exit.USAGE
    assert "SCOOTER_POSTGRES_URL: is not set" in ended.err


async def test_watch_on_a_terminal_is_a_table_that_begins_with_the_states_so_far(
    redis: Redis, redis_url: str
) -> None:
    status = {"s": "online", "boot": 1, "conn": 1, "fw": "1.2.3"}
    await receive(redis, "SC-0001", "status", status)  # with fields for the scripts alone
    await receive(redis, "SC-0001", "telemetry", REPORT)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "watch"),
        env=environment({"redis_url": redis_url}) | {"TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    screen = bytearray()

    async def is_shown() -> bool:
        with suppress(BlockingIOError):
            screen.extend(os.read(ours, 65536))
        return b"48.13710 11.57540" in screen

    try:
        await eventually(is_shown, what="the scooter's row")
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
        os.close(ours)
        os.close(theirs)
    assert b"SC-0001" in screen
    assert b"\x1b[3" not in screen  # no colours
    assert process.returncode == Exit.INTERRUPTED


async def test_watch_goes_on_after_an_outage_of_redis(own_redis: Servers) -> None:
    url = own_redis.redis_url
    process = await start("watch", "--json", redis_url=url)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with open_redis(url) as redis:
            await subscribed(redis)
        await asyncio.to_thread(own_redis.redis.kill)
        told = await process.stderr.readline()
        await asyncio.to_thread(own_redis.redis.start)
        async with open_redis(url) as redis:
            await subscribed(redis)
            await receive(redis, "SC-0001", "telemetry", REPORT)
        change = json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.communicate()

    assert b"redis is away" in told
    assert change["scooter_id"] == "SC-0001"


async def test_watch_without_redis_ends_at_once_with_a_sentence() -> None:
    ended = await scooter("watch", redis_url="redis://127.0.0.1:1/0")

    assert ended.code == Exit.FAILED
    assert ended.err.startswith("Error: redis is away")


async def test_watch_ends_by_itself_after_its_time(redis_url: str) -> None:
    ended = await scooter("watch", "--for", "300ms", redis_url=redis_url)

    assert (ended.code, ended.out, ended.err) == (Exit.OK, "", "")


@asynccontextmanager
async def watching(
    redis: Redis, redis_url: str, *arguments: str, **settings: object
) -> AsyncIterator[asyncio.StreamReader]:
    """The output of a `scooter watch` that misses nothing any more; ended with Ctrl-C."""
    process = await start("watch", "--id", "SC-*", *arguments, redis_url=redis_url, **settings)
    assert process.stdout is not None
    try:
        await subscribed(redis)
        yield process.stdout
    finally:
        process.send_signal(signal.SIGINT)
        _, talk = await process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert talk == b""


async def subscribed(redis: Redis) -> None:
    """Wait until somebody follows the changes."""

    async def count() -> bool:
        return bool((await redis.pubsub_numsub("scooters:changes"))[0][1])

    await eventually(count, what="a subscriber of the changes")
