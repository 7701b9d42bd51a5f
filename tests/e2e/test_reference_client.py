"""The reference client at a real gateway: provisioned, heard, commanded, and never late."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from devices.bundle_places import FolderPlace
from devices.contract import topics
from devices.scooters import NewScooter
from gateway.local.servers import Servers
from gateway.storage.migrate import migrate
from tests.commanding import FakeOperator, Stage
from tests.desk import BY, FLEET_SECRET, Address, client_of, document_of, open_desk
from tests.eventually import eventually
from tests.reference_client import start_client
from tests.services import mosquitto_of

SCOOTER = "WVWZZZ1JZXW000001"
KEY = "alice.laptop"


@dataclass
class Scene:
    """A scooter on the bench and an operator, both with nothing but their bundles."""

    client: asyncio.subprocess.Process
    flash: Path
    operator: FakeOperator
    redis: Redis
    stage: Stage

    async def command(self, name: str, **members: Any) -> str:  # noqa: ANN401 - of a request
        """Ask for it; returns the final status."""
        ref = await self.operator.ask(SCOOTER, name, **members)
        return str((await self.operator.ended(ref, within_s=30))["status"])

    async def state(self, field: str) -> str:
        found = await self.redis.hget(f"scooter:{SCOOTER}", field)
        return found.decode() if isinstance(found, bytes) else ""

    async def becomes(self, field: str, value: str) -> None:
        async def probe() -> bool:
            return await self.state(field) == value

        await eventually(probe, within_s=30, what=f"{field} {value}")


@pytest.fixture
async def scene(own_servers: Servers, tmp_path: Path) -> AsyncIterator[Scene]:
    servers = own_servers
    await migrate(servers.postgres_url)
    place = FolderPlace(tmp_path / "bundles")
    async with open_desk(_address(servers)) as desk:
        await desk.provisioning.add(NewScooter(SCOOTER), by=BY, place=place)
        await desk.operators.add("alice", by=BY)
        await desk.operators.grant("alice", ["*"], ["*"], by=BY)
        await desk.keys.add_key(KEY, by=BY, place=place)
    stage = Stage(mosquitto_of(servers), servers.redis_url, servers.postgres_url)
    async with (
        stage.gateway("g-1", fleet_secret=SecretStr(FLEET_SECRET)),
        _operator(place.where(KEY)) as operator,
        Redis.from_url(servers.redis_url) as redis,
    ):
        flash = tmp_path / "flash"
        client = await start_client(place.where(SCOOTER), flash)
        try:
            scene = Scene(client, flash, operator, redis, stage)
            await scene.becomes("lock", "locked")
            yield scene
        finally:
            if client.returncode is None:
                client.send_signal(signal.SIGCONT)
                client.kill()
            await client.communicate()


def _address(servers: Servers) -> Address:
    return Address(
        port=servers.mqtt_port,
        scooters_port=servers.mqtt_scooters_port,
        operators_port=servers.mqtt_operators_port,
        admin_password=servers.mqtt_admin_password,
        password_file=str(servers.password_file),
        reload=servers.broker_reload,
        authority_file=str(servers.authority_file),
        postgres_url=servers.postgres_url,
    )


@asynccontextmanager
async def _operator(bundle: Path) -> AsyncIterator[FakeOperator]:
    async with client_of(document_of(bundle)) as client:
        operator = FakeOperator(client, KEY)
        await client.subscribe(topics.replies(KEY), qos=1)
        listening = asyncio.create_task(operator.listen())
        try:
            yield operator
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def test_it_is_heard_obeys_and_forgets_an_event_when_the_gateway_has_it(
    scene: Scene,
) -> None:
    assert await scene.state("presence") == "online"
    assert float(await scene.state("lat")) == 52.520008

    assert await scene.command("unlock") == "succeeded"
    assert await scene.state("lock") == "unlocked"
    assert await scene.command("lock") == "succeeded"
    assert await scene.command("locate", params={"s": 3, "horn": False}) == "succeeded"
    assert await scene.command("set_report_interval", params={"parked": 2}) == "succeeded"

    async def stored() -> bool:
        rows = await scene.stage.ask("SELECT event_type FROM scooter_events ORDER BY event_id")
        kept = list((scene.flash / "events").iterdir())
        return [row[0] for row in rows] == ["trip_start", "trip_end"] and not kept

    await eventually(stored, within_s=30, what="its events stored and forgotten")


async def test_frozen_for_longer_than_the_ttl_it_does_not_unlock_when_it_wakes_up(
    scene: Scene,
) -> None:
    scene.client.send_signal(signal.SIGSTOP)
    assert await scene.command("unlock", ttl=2) == "timed_out"
    scene.client.send_signal(signal.SIGCONT)

    assert await scene.command("get_state") == "succeeded"
    assert await scene.state("lock") == "locked"
    assert list((scene.flash / "events").iterdir()) == []
    (row,) = await scene.stage.ask("SELECT status FROM commands WHERE command = 'unlock'")
    assert row["status"] in {"timed_out", "rejected"}


async def test_its_goodbye_and_its_end_are_seen(scene: Scene) -> None:
    assert await scene.command("power_off") == "succeeded"
    await scene.becomes("presence", "offline")
    async with asyncio.timeout(20):
        assert await scene.client.wait() == 0
