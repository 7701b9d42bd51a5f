"""The README's commands for backup and restore bring back what was lost, and nothing worse."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from gateway.local.mosquitto_package import Mosquitto
from gateway.local.servers import Servers
from gateway.telemetry.state_store import LOADED, SCOOTER
from tests.bundles import FLEET_SECRET
from tests.command_line import added, gets_in, runner
from tests.e2e.commanding import Operator, cast, online, past, standing, until_standing
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.fleet import EventSender
from tests.load import publish
from tests.restoring import Restoring, settings_of
from tests.services import servers_of_tests
from tests.wire import Message

pytestmark = pytest.mark.timeout(400)  # redis-cli may have to be fetched, and much is started

REGISTRY: Final = (
    "SELECT scooter_id, standing, generation, password_hash FROM scooters ORDER BY 1",
    "SELECT login, standing, generation, password_hash FROM operator_keys ORDER BY 1",
    "SELECT audit_id, done_by, action, subject FROM access_audit ORDER BY 1",
)
MOVES: Final = "SELECT request_id, number, status, at FROM command_moves ORDER BY move_id"
OPEN_S: Final = 6


@pytest.fixture
def restoring(tmp_path: Path) -> Restoring:
    return Restoring(tmp_path)


@pytest.fixture
def new_servers(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[Servers]:
    """Not started: for when the others are lost."""
    servers = servers_of_tests(tmp_path / "new", fsync=False, mosquitto=mosquitto_program)
    yield servers
    servers.stop()


async def _answers(system: System, *questions: str) -> list[list[tuple[Any, ...]]]:
    return [[tuple(row) for row in await system.ask(each)] for each in questions]


async def _falls(system: System, scooter_id: str, event_id: str) -> None:
    """An event, until its receipt."""
    sender = EventSender(system.mqtt_port)
    async with sender.running():
        sender.happen(scooter_id, event_id)

        async def receipted() -> bool:
            return (scooter_id, event_id) in sender.receipted

        await eventually(receipted, within_s=60, what="a receipt")


async def _reports(system: System, lap: int) -> None:
    """A report of SC-0001, until it is its state in Redis and in Postgres."""
    payload = b'{"boot":1,"seq":%d,"odo":%d}' % (lap, lap)
    await publish(system.mqtt_port, Message("scooters/SC-0001/telemetry", payload))

    async def kept() -> bool:
        return await system.laps(["SC-0001"]) == [lap]

    await eventually(kept, within_s=60, what=f"report {lap}")
    await system.clean()


async def _sleeps(system: System, scooter_id: str) -> None:
    """It said goodbye, and that is known."""
    await publish(system.mqtt_port, Message(f"scooters/{scooter_id}/status", b'{"s":"sleeping"}'))

    async def known() -> bool:
        presence = await system.redis.hget(f"{SCOOTER}{scooter_id}", "presence")
        return bool(presence == b"sleeping")

    await eventually(known, within_s=60, what=f"{scooter_id} asleep")


async def _odometer_in_postgres(system: System) -> list[float]:
    return [row[0] for row in await system.ask("SELECT odometer_m FROM scooter_state")]


async def _succeeds(operator: Operator, scooter_id: str, command: str) -> str:
    ref = await operator.ask(scooter_id, command)
    end = await operator.until(ref)
    assert (end["status"], end.get("detail")) == ("succeeded", None)
    return ref


async def test_all_that_was_backed_up_is_there_after_everything_was_lost(
    system: System, new_servers: Servers, restoring: Restoring, tmp_path: Path
) -> None:
    rider, slow = Scooter("SC-0001"), Scooter("SC-0002", finishes=False)
    run = runner(settings_of(system.servers))
    async with (
        cast(system, rider, slow) as (gateway, operator),
        online(system, rider, slow),
    ):
        bundle = await added(run, "SC-9000")
        done = await _succeeds(operator, "SC-0001", "unlock")
        await _falls(system, "SC-0001", "1-1")
        asked_ms = wall_ms()
        still_open = await operator.ask("SC-0002", "unlock", ttl=OPEN_S)
        sent = await operator.until(still_open, "received")
        await system.clean()
        kept = await _answers(system, *REGISTRY, MOVES)

        await restoring.back_up(system.servers)

        # What comes now is not in the backup.
        after = await _succeeds(operator, "SC-0001", "lock")
        await run("devices", "add", "SC-9001")
        version = int(await system.redis.hget(f"{SCOOTER}SC-0001", "version") or 0)
    await gateway.kill()
    await asyncio.to_thread(system.servers.stop)
    shutil.rmtree(system.servers.folder)
    await past(asked_ms + OPEN_S * 1000)  # before its time is up it could be sent again

    await restoring.restore_files(new_servers.folder)
    await asyncio.to_thread(new_servers.start)
    await restoring.restore(new_servers)
    async with System(new_servers, tmp_path) as restored:
        found = await _answers(restored, *REGISTRY, MOVES)
        assert found[:2] == kept[:2]
        assert found[2][: len(kept[2])] == kept[2]  # and what `reconcile` did since
        assert found[3] == kept[3]
        assert await gets_in(bundle | {"port": new_servers.mqtt_scooters_port})
        await (await restored.gateway(fleet_secret=FLEET_SECRET)).ready()
        async with (
            Operator(restored.mqtt_port).running() as operator,
            online(restored, rider, slow),
        ):
            await until_standing(restored, still_open, "timed_out")
            assert slow.times(sent["request_id"]) == 1
            assert await standing(restored, done) == "succeeded"
            assert await standing(restored, after) is None

            # The scooter has obeyed a command since: only a higher number is obeyed again.
            await _succeeds(operator, "SC-0001", "unlock")
            state = await restored.redis.hgetall(f"{SCOOTER}SC-0001")
            assert int(state[b"version"]) > version
            assert state[b"lock"] == b"unlocked"
            await _falls(restored, "SC-0001", "1-1")  # it may not know of its receipt
            await restored.clean()
            await restored.assert_no_row_twice()
            events = await restored.ask("SELECT event_id FROM scooter_events")
            assert [row["event_id"] for row in events] == ["1-1"]


async def test_redis_from_an_old_backup_has_what_postgres_knows_since(
    system: System, restoring: Restoring
) -> None:
    await system.register("SC-0001")
    gateway = await (await system.gateway()).ready()
    await _reports(system, 1)
    await restoring.back_up(system.servers)
    await _reports(system, 2)
    await gateway.kill()
    await asyncio.to_thread(system.servers.redis.stop)
    shutil.rmtree(system.servers.folder / "redis" / "appendonlydir")

    await restoring.restore_redis(system.servers.folder)
    await asyncio.to_thread(system.servers.redis.start)
    assert await system.laps(["SC-0001"]) == [1]
    await restoring.forget_marker(system.servers)
    await (await gateway.start()).ready()

    async def refilled() -> bool:
        return bool(await system.redis.exists(LOADED)) and await system.laps(["SC-0001"]) == [2]

    await eventually(refilled, within_s=60, what="the newer state")


async def test_postgres_from_an_old_backup_gets_every_state_that_redis_has(
    system: System, restoring: Restoring
) -> None:
    await system.register("SC-0001")
    gateway = await (await system.gateway()).ready()
    await _reports(system, 1)
    await restoring.back_up(system.servers)
    await _reports(system, 2)
    await gateway.kill()
    await _empty_database(system.servers.postgres_url)

    await restoring.restore(system.servers)
    assert await _odometer_in_postgres(system) == [1]
    await restoring.mark_dirty(system.servers)
    await (await gateway.start()).ready()

    async def written() -> bool:
        return await _odometer_in_postgres(system) == [2]

    await eventually(written, within_s=60, what="the state in Postgres")
    await system.clean()
    await system.assert_no_row_twice()


async def test_a_speed_limit_that_was_cancelled_since_the_backup_is_not_obeyed_after_it(
    system: System, restoring: Restoring
) -> None:
    sleeper = Scooter("SC-0001")
    async with cast(system, sleeper) as (gateway, operator):
        await _sleeps(system, "SC-0001")
        limit = await operator.ask("SC-0001", "set_speed_limit", params={"kmh": 6})
        queued = await operator.until(limit, "queued")
        await restoring.back_up(system.servers)
        which = {"request_id": queued["request_id"]}
        await operator.ask("SC-0001", "cancel", params=which)
        await operator.until(limit, "cancelled")
        await gateway.kill()
        await _empty_database(system.servers.postgres_url)

        await restoring.restore(system.servers)
        assert await standing(system, limit) == "queued"
        await (await gateway.start()).ready()
        async with online(system, sleeper):
            await until_standing(system, limit, "expired")
            # What is sent to it now comes after whatever was sent before.
            await _succeeds(operator, "SC-0001", "get_state")
        assert [each.command for each in sleeper.executed] == ["get_state"]


async def _empty_database(url: str) -> None:
    base, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{base}/postgres")
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
