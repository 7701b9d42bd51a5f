"""Our own servers: they keep what they stored, refuse strangers and leave nothing behind."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiomqtt import Client
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from gateway.local.server_process import ServerFailed, without_root
from gateway.local.servers import Servers
from tests.eventually import eventually

HOLD = """
import sys
from pathlib import Path
from gateway.local.servers import Servers
with Servers(Path(sys.argv[1]), fsync=False) as servers:
    print(servers.mosquitto.pid, servers.redis.pid, servers.postgres.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(
    folder: Path, *, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds servers in `folder` until its standard input is closed."""
    command = [*prefix, sys.executable, "-c", HOLD, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own script
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as holder:
        try:
            yield holder
        finally:
            holder.kill()


def pids_of(holder: subprocess.Popen[str]) -> list[int]:
    assert holder.stdout
    return [int(pid) for pid in holder.stdout.readline().split()]


def processes_in(folder: Path) -> list[str]:
    """What runs in a folder or was started with a path inside it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            place = (process / "cwd").readlink()
        except OSError:
            continue
        if process.name != str(os.getpid()) and str(folder) in f"{command}\0{place}":
            found.append(command.replace("\0", " "))
    return found


async def store(servers: Servers) -> None:
    async with Redis.from_url(servers.redis_url) as redis:
        await redis.hset("scooter:SC-1", "lock", "locked")
    connection = await asyncpg.connect(servers.postgres_url)
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    await connection.close()


async def assert_stored(servers: Servers) -> None:
    async with Redis.from_url(servers.redis_url) as redis:
        assert await redis.hget("scooter:SC-1", "lock") == b"locked"
    connection = await asyncpg.connect(servers.postgres_url)
    assert await connection.fetchval("SELECT answer FROM kept") == 42
    await connection.close()


def mqtt(servers: Servers) -> Client:
    return Client(
        servers.mqtt_host,
        servers.mqtt_port,
        username=servers.mqtt_username,
        password=servers.mqtt_password,
    )


async def test_what_was_stored_is_there_at_the_next_start(tmp_path: Path) -> None:
    with Servers(tmp_path, fsync=False) as servers:
        await store(servers)
        async with mqtt(servers) as client:
            await client.publish("gateway/g1/status", b"online", qos=1, retain=True)

    with Servers(tmp_path, fsync=False) as servers:
        await assert_stored(servers)
        async with mqtt(servers) as client:
            await client.subscribe("gateway/g1/status", qos=1)
            assert (await anext(client.messages)).payload == b"online"


async def test_what_was_acknowledged_survives_a_kill_on_the_same_port(own_servers: Servers) -> None:
    await store(own_servers)
    before = own_servers.redis_url, own_servers.postgres_url, own_servers.mqtt_port
    for server in (own_servers.mosquitto, own_servers.redis, own_servers.postgres):
        server.kill()
        server.start()

    assert before == (own_servers.redis_url, own_servers.postgres_url, own_servers.mqtt_port)
    await assert_stored(own_servers)


async def test_a_paused_server_is_silent_until_it_resumes(own_redis: Servers) -> None:
    async with Redis.from_url(own_redis.redis_url, socket_timeout=0.1) as redis:
        await redis.set("gateway:a", "1")
        own_redis.redis.pause()
        with pytest.raises(RedisTimeout):
            await redis.get("gateway:a")
        own_redis.redis.resume()

        assert await redis.get("gateway:a") == b"1"


async def test_a_paused_postgres_can_be_stopped(own_postgres: Servers) -> None:
    own_postgres.postgres.pause()
    own_postgres.postgres.stop()

    assert not own_postgres.postgres.is_running


async def test_the_servers_serve_an_asyncio_program(tmp_path: Path) -> None:
    async with (
        Servers(tmp_path, kinds=["redis"]) as servers,
        Redis.from_url(servers.redis_url) as r,
    ):
        assert await r.ping()
    assert processes_in(tmp_path) == []


def test_no_process_is_left_after_an_orderly_end(tmp_path: Path) -> None:
    with another_process(tmp_path / "servers") as holder:
        assert len(pids_of(holder)) == 3
        assert holder.communicate("") == ("", "")

    assert processes_in(tmp_path) == []


async def test_no_process_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    async def nothing_runs() -> bool:
        return not processes_in(tmp_path)

    with another_process(tmp_path / "servers") as holder:
        assert len(pids_of(holder)) == 3
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        await eventually(nothing_runs, what="the servers to end with their parent")

    with Servers(tmp_path / "servers", fsync=False):
        assert processes_in(tmp_path)  # and the folder can be used again at once


def test_a_failed_start_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with (
        pytest.raises(ServerFailed, match=r"Postgres ended on its own: .*postgres\.log"),
        Servers(tmp_path),
    ):
        pass

    assert processes_in(tmp_path) == []


def test_a_folder_that_only_its_owner_may_enter_is_enough_and_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with Servers(tmp_path / "servers", fsync=False) as servers:
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
        assert stat.S_IMODE(servers.folder.stat().st_mode) == 0o700
        secret_files = [
            *(*servers.folder.glob("*.json"), *servers.folder.glob("*/*.conf")),
            *(*servers.folder.glob("mosquitto/passwords*"), *servers.folder.glob("*/*.key")),
        ]
        assert len(secret_files) > 7
        assert {stat.S_IMODE(file.stat().st_mode) for file in secret_files} == {0o600}


def test_a_plain_user_needs_no_rights(tmp_path: Path) -> None:
    # As root, we become one who may still read an interpreter in a folder of root's.
    with another_process(tmp_path / "servers", prefix=without_root()) as holder:
        owners = [Path(f"/proc/{pid}").stat().st_uid for pid in (holder.pid, *pids_of(holder))]
        assert len(owners) == 4
        assert len(set(owners)) == 1
        assert holder.communicate("") == ("", "")


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path) -> None:
    with (
        Servers(tmp_path, kinds=["redis"]),
        pytest.raises(ServerFailed, match=f"in use by process {os.getpid()}: stop that one"),
        Servers(tmp_path, kinds=["redis"]),
    ):
        pass


async def test_backend_developers_read_states_with_a_login_of_their_own(own_redis: Servers) -> None:
    async with (
        Redis.from_url(own_redis.redis_url) as gateway,
        Redis.from_url(own_redis.redis_reader_url) as reader,
    ):
        await gateway.hset("scooter:SC-1", "lock", "locked")
        assert await reader.hget("scooter:SC-1", "lock") == b"locked"
        with pytest.raises(ResponseError, match=r"(?i)no permission"):
            await reader.hset("scooter:SC-1", "lock", "unlocked")


async def run(redis: Redis, command: str) -> None:
    await redis.execute_command(*command.split(" "))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG SET maxmemory-policy allkeys-lru",
        "CONFIG GET maxmemory-policy",
        "KEYS *",
        "SHUTDOWN",
        "ACL LIST",
        "SET other 1",
        "PUBLISH other 1",
        "EVAL return(redis.call('SET','other','1')) 0",
    ],
)
async def test_the_gateways_redis_user_may_not(redis: Redis, command: str) -> None:
    with pytest.raises(ResponseError, match=r"(?i)no permission"):
        await run(redis, command)


@pytest.mark.parametrize(
    "command",
    [
        "HSET scooter:SC-1 lat 1",
        "ZADD scooters:dirty 1 SC-1",
        "ZRANGE scooters:dirty 0 -1 WITHSCORES",
        "GEOADD scooters:position 13.4 52.5 SC-1",
        "GEOSEARCH scooters:position FROMLONLAT 13 52 BYRADIUS 900 km",
        "XADD scooters:history * k event",
        "XTRIM scooters:history MINID 0",
        "SET gateway:g1:lease token PX 1000 NX",
        "PUBLISH scooters:changes SC-1",
        "PUBSUB NUMSUB scooters:changes",
        "EVAL return(redis.call('INCRBY',KEYS[1],2)) 1 scooters:history_bytes",
        "SCRIPT LOAD return(1)",
        "INFO memory",
        "TIME",
        "MEMORY USAGE scooter:SC-1",
        "SCAN 0 MATCH scooter:* COUNT 10",
        "DBSIZE",
        "MULTI",
        "ACL WHOAMI",
    ],
)
async def test_the_gateways_redis_user_may(redis: Redis, command: str) -> None:
    await run(redis, command)


async def test_redis_evicts_nothing_and_keeps_every_write(redis_admin: Redis) -> None:
    settings = await redis_admin.config_get("maxmemory-policy", "appendonly", "appendfsync")

    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }


async def test_the_readers_role_is_there_before_anything_else_and_may_read_nothing_yet(
    tmp_path: Path,
) -> None:
    for _ in range(2):  # made once, known at the next start
        with Servers(tmp_path, kinds=["postgres"], fsync=False) as servers:
            owner = await asyncpg.connect(servers.postgres_url)
            await owner.execute("CREATE TABLE IF NOT EXISTS private (secret text)")
            reader = await asyncpg.connect(servers.postgres_reader_url)
            for statement in ("SELECT * FROM private", "CREATE TABLE mine (a int)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await reader.execute(statement)
            await owner.close()
            await reader.close()
            secret = urlsplit(servers.postgres_reader_url).password or "?"
            log = servers.postgres.log_file.read_text()
            assert secret not in log
            assert "SCRAM" not in log
