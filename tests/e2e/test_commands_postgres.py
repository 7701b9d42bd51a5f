"""Commands while Postgres is away, slow to answer, or from yesterday."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.commands.acks_stream import ACKS
from gateway.local.server_process import Server
from gateway.telemetry.state_store import SCOOTER
from tests.e2e.commanding import assert_sound, cast, online, past, standing, until_standing
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.proxy import Proxy
from tests.services import in_database

TTL_S = 3
REFUSED_WITHIN_S = 15.0
"""Three seconds, and what a slow machine takes."""

AWAY: dict[str, tuple[Callable[[Server], Any], Callable[[Server], Any]]] = {
    "stopped": (Server.stop, Server.start),
    "killed": (Server.kill, Server.start),
    "frozen": (Server.pause, Server.resume),
}


@asynccontextmanager
async def _away(system: System, how: str) -> AsyncIterator[None]:
    leave, come_back = AWAY[how]
    await asyncio.to_thread(leave, system.servers.postgres)
    try:
        yield
    finally:
        await asyncio.to_thread(come_back, system.servers.postgres)


async def _acks_waiting(system: System) -> int:
    return int(await system.redis.xlen(ACKS))


@pytest.mark.parametrize("how", AWAY)
async def test_while_postgres_is_away_requests_are_refused_and_answers_wait_in_redis(
    system: System, how: str
) -> None:
    scooter, other = Scooter("SC-0001", finishes=False), Scooter("SC-0002")
    async with (
        cast(system, scooter, other) as (gateway, operator),
        online(system, scooter, other),
    ):
        under_way = await operator.ask("SC-0001", "unlock")
        await until_standing(system, under_way, "received")
        await operator.until(under_way, "received")
        async with _away(system, how):
            scooter.finish()

            async def waits() -> bool:
                return await _acks_waiting(system) == 1

            await eventually(waits, within_s=30, what="the answer in Redis")
            assert await system.redis.hget(f"{SCOOTER}SC-0001", "lock") == b"unlocked"
            asked_at = time.monotonic()
            refused = await operator.ask("SC-0002", "unlock")
            end = await operator.until(refused)
            assert time.monotonic() - asked_at < REFUSED_WITHIN_S
            assert end["status"] == "refused"
            assert end["detail"].startswith("unavailable")
            assert "request_id" not in end
        assert (await operator.until(under_way))["status"] == "succeeded"
        assert await _acks_waiting(system) == 0

        async def accepted() -> bool:
            end = await operator.until(await operator.ask("SC-0002", "lock"))
            return bool(end["status"] == "succeeded")

        await eventually(accepted, within_s=60, what="commands again")
        await assert_sound(system, operator, [scooter, other])
        assert [each.command for each in other.executed] == ["lock"]
        assert await standing(system, refused) in (None, "refused")
        assert (await gateway.metrics()).value("acks_foreign_total") == 0


async def test_a_gateway_that_starts_without_postgres_sends_nothing_whose_time_is_up(
    system: System,
) -> None:
    scooter = Scooter("SC-0001", finishes=False)
    async with cast(system, scooter) as (gateway, operator), online(system, scooter):
        asked_ms = wall_ms()
        ref = await operator.ask("SC-0001", "unlock", ttl=TTL_S)
        await until_standing(system, ref, "received")
        await gateway.kill()
        async with _away(system, "killed"):
            scooter.finish()
            await gateway.start()
            refused = await operator.ask("SC-0001", "unlock")
            assert (await operator.until(refused))["detail"].startswith("unavailable")
            await past(asked_ms + TTL_S * 1000)
        await operator.until(ref, "succeeded")
        await assert_sound(system, operator, [scooter])
        assert len(scooter.executed) == len(scooter.heard) == 1


@dataclass
class _Pair:
    """Both directions of one connection."""

    wrote: bool = False
    is_lost: bool = False


class _LosesCommit(Proxy):
    """Before Postgres: the one transaction that wrote `word` commits, and nobody is told."""

    def __init__(self, to_port: int, word: bytes) -> None:
        super().__init__("127.0.0.1", to_port)
        self._word = word
        self._pair = _Pair()
        self.committed = asyncio.Event()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool
    ) -> None:
        if is_up:  # both directions of a connection begin one after the other, this one first
            self._pair = _Pair()
        mine = self._pair
        try:
            while read := await reader.read(65536):
                if is_up and self._word in read:
                    mine.wrote = True
                if is_up and mine.wrote and b"COMMIT;" in read:
                    mine.is_lost = True
                    self.committed.set()
                if is_up or not mine.is_lost:
                    writer.write(read)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


async def test_a_request_whose_commit_got_no_answer_is_refused_and_never_sent(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    url = urlsplit(system.servers.postgres_url)
    assert url.port is not None
    async with _LosesCommit(url.port, b'"unlock"') as proxy:
        behind = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}"))
        async with (
            cast(system, scooter, postgres_url=behind.geturl()) as (_, operator),
            online(system, scooter),
        ):
            ref = await operator.ask("SC-0001", "unlock")
            end = await operator.until(ref)
            assert proxy.committed.is_set()
            assert end["detail"].startswith("unavailable")
            await until_standing(system, ref, "refused")
            rows = await system.ask("SELECT status FROM command_moves ORDER BY number")
            assert [row["status"] for row in rows] == ["sent", "refused"], "it was committed"
            assert scooter.heard == []
            await assert_sound(system, operator, [scooter])


async def test_with_postgres_from_yesterday_scooters_take_new_commands_and_no_old_ones(
    system: System,
) -> None:
    scooter = Scooter("SC-0001", finishes=False)
    async with cast(system, scooter) as (gateway, operator), online(system, scooter):
        open_then = await operator.ask("SC-0001", "unlock", ttl=9)
        await operator.until(open_then, "received")
        await gateway.kill()
        await _copy(system, "yesterday")
        await (await gateway.start()).ready()
        scooter.finish()
        await operator.until(open_then, "succeeded")
        for command in ("lock", "unlock", "lock"):
            assert (await operator.until(await operator.ask("SC-0001", command)))[
                "status"
            ] == "succeeded"
        before = list(scooter.executed)
        newest = max((await _numbers(system)).values())

        await _swap_in(system, "yesterday")
        assert (await _numbers(system))["SC-0001"] < newest
        await until_standing(system, open_then, "timed_out", "succeeded")
        assert scooter.executed == before, "what was open yesterday is not done again"

        async def accepted() -> bool:
            ref = await operator.ask("SC-0001", "unlock")
            return bool((await operator.until(ref))["status"] == "succeeded")

        await eventually(accepted, within_s=60, what="a command that the scooter takes")
        assert (await _numbers(system))["SC-0001"] > newest
        assert [error for _, error in scooter.refused] == []
        done = [each.request_id for each in scooter.executed]
        assert len(done) == len(set(done)) == len(before) + 1
        assert all(each.up_ms <= (each.exp_ms or 0) for each in scooter.executed)


async def _numbers(system: System) -> dict[str, int]:
    rows = await system.ask("SELECT scooter_id, n FROM command_numbers")
    return {row["scooter_id"]: row["n"] for row in rows}


async def _copy(system: System, name: str) -> None:
    """The database as it is now, while nobody else is connected."""
    connection = await asyncpg.connect(in_database(system.servers.postgres_url, "template1"))
    try:
        await _end_sessions(connection)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE scooters")
    finally:
        await connection.close()


async def _swap_in(system: System, name: str) -> None:
    """What a restore does: everybody out, and the copy has the database's name."""
    connection = await asyncpg.connect(in_database(system.servers.postgres_url, "template1"))
    try:
        await connection.execute("ALTER DATABASE scooters ALLOW_CONNECTIONS false")
        await _end_sessions(connection)
        await connection.execute("ALTER DATABASE scooters RENAME TO lost")
        await connection.execute(f"ALTER DATABASE {name} RENAME TO scooters")
    finally:
        await connection.close()


async def _end_sessions(connection: asyncpg.Connection) -> None:
    async def alone() -> bool:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'scooters'"
        )
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'scooters'"
        )
        return bool(left == 0)

    await eventually(alone, within_s=30, what="everybody to be out")
