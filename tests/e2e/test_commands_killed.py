"""A gateway that is killed between any two steps of a command resumes it, once and in time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import mqtt5
import pytest

from tests.bundles import FLEET_SECRET
from tests.e2e.commanding import (
    Operator,
    admit,
    assert_sound,
    grant,
    online,
    past,
    standing,
    until_standing,
)
from tests.e2e.gate import Gate, Matches
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess

TTL_S = 20
SHORT_TTL_S = 3


def _publishes(client: str, topic_end: str, word: bytes = b"", *, is_up: bool) -> Matches:
    def matches(client_id: str, goes_up: bool, packet: mqtt5.Packet) -> bool:  # noqa: FBT001
        return (
            isinstance(packet, mqtt5.PublishPacket)
            and goes_up == is_up
            and client_id.endswith(client)
            and packet.topic.endswith(topic_end)
            and word in bytes(packet.payload or b"")
        )

    return matches


def _confirms(client: str, *, is_up: bool) -> Matches:
    def matches(client_id: str, goes_up: bool, packet: mqtt5.Packet) -> bool:  # noqa: FBT001
        is_puback = isinstance(packet, mqtt5.PubAckPacket)
        return is_puback and goes_up == is_up and client_id.endswith(client)

    return matches


@dataclass(frozen=True)
class Step:
    """Where the gateway is held when it is killed, and what the ledger says then.

    `locked`: it waits for a row of Postgres instead of a packet.
    """

    status: str | None
    hold: Matches | None = None
    locked: str | None = None
    received_first: bool = False


STEPS = {
    "before the request reached it": Step(
        None, hold=_publishes("/control", "/commands", is_up=False)
    ),
    "before the row": Step(None, locked="commands"),
    "after the row, before the publish": Step(
        "sent", hold=_publishes("/downlink", "/commands", is_up=True)
    ),
    "after the publish, before its PUBACK": Step(
        "succeeded", hold=_confirms("/downlink", is_up=False)
    ),
    "after the row, before the request is settled": Step(
        "succeeded", hold=_confirms("/control", is_up=True)
    ),
    "before received reached it": Step(
        "sent", hold=_publishes("/control", "/acks", b"received", is_up=False)
    ),
    "after received, before the result reached it": Step(
        "received", hold=_publishes("/control", "/acks", b"success", is_up=False)
    ),
    "before the result is recorded": Step("received", locked="commands", received_first=True),
    "after the result, before its reply": Step(
        "succeeded", hold=_publishes("/downlink", "/replies", b"succeeded", is_up=True)
    ),
    "after the reply, before it is known to have left": Step(
        "succeeded", hold=_confirms("/downlink", is_up=False)
    ),
}


class Scene:
    """A gateway behind a gate, one scooter, one operator."""

    def __init__(self, system: System, gate: Gate, scooter: Scooter, operator: Operator) -> None:
        self.system = system
        self.gate = gate
        self.scooter = scooter
        self.operator = operator
        self.gateway: GatewayProcess

    async def start(self) -> None:
        self.gateway = await self.system.gateway(
            mqtt_port=self.gate.port, fleet_secret=FLEET_SECRET
        )
        await self.gateway.ready()

    async def kill_at(self, step: Step, *, ttl_s: float) -> str:
        """Ask for an unlock and kill the gateway at that step of it; returns the ref."""
        if step.locked is not None:
            return await self._kill_waiting(step, ttl_s=ttl_s)
        assert step.hold is not None
        self.gate.hold(step.hold)
        ref = await self.operator.ask("SC-0001", "unlock", ttl=ttl_s)
        await eventually(self._reached, within_s=30, what="the gateway at that step")
        if step.status is not None:
            await until_standing(self.system, ref, step.status)
        await self.gateway.kill()
        self.gate.release()
        return ref

    async def _kill_waiting(self, step: Step, *, ttl_s: float) -> str:
        ref = ""
        if step.received_first:
            self.scooter.finishes = False
            ref = await self.operator.ask("SC-0001", "unlock", ttl=ttl_s)
            await until_standing(self.system, ref, "received")
        async with _locked(self.system, step.locked or ""):
            if step.received_first:
                self.scooter.finish()
            else:
                ref = await self.operator.ask("SC-0001", "unlock", ttl=ttl_s)
            await eventually(self.waits, within_s=30, what="the gateway to wait for a row")
            await self.gateway.kill()
        return ref

    async def _reached(self) -> bool:
        return self.gate.reached.is_set()

    async def waits(self) -> bool:
        rows = await self.system.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND application_name = 'scooter-gateway'"
        )
        return bool(rows[0][0])


@asynccontextmanager
async def _locked(system: System, table: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(system.servers.postgres_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


@pytest.fixture
async def scene(system: System) -> AsyncIterator[Scene]:
    scooter = Scooter("SC-0001")
    await admit(system.servers.postgres_url, ["SC-0001"])
    await grant(system.servers.postgres_url)
    async with (
        Gate(system.mqtt_port) as gate,
        Operator(system.mqtt_port).running() as operator,
    ):
        made = Scene(system, gate, scooter, operator)
        await made.start()
        async with online(system, scooter):
            yield made


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_killed_between_two_steps_it_goes_on_under_the_same_id_and_nothing_happens_twice(
    scene: Scene, step: Step
) -> None:
    ref = await scene.kill_at(step, ttl_s=TTL_S)
    assert await standing(scene.system, ref) == step.status
    await scene.start()
    end = await scene.operator.until(ref)
    assert end["status"] == "succeeded"
    assert scene.scooter.times(end["request_id"]) == 1
    await assert_sound(scene.system, scene.operator, [scene.scooter])
    rows = await scene.system.ask("SELECT count(*) FROM commands")
    assert rows[0][0] == 1


AWAY_TOO_LONG = [name for name, step in STEPS.items() if step.status in (None, "sent")]


@pytest.mark.parametrize("name", AWAY_TOO_LONG)
async def test_killed_and_back_after_the_ttl_it_sends_nothing_any_more(
    scene: Scene, name: str
) -> None:
    asked_ms = wall_ms()
    ref = await scene.kill_at(STEPS[name], ttl_s=SHORT_TTL_S)
    await past(asked_ms + SHORT_TTL_S * 1000 + 500)
    heard = len(scene.scooter.heard)
    await scene.start()
    end = await scene.operator.until(ref)
    assert end["status"] in ("refused", "timed_out", "expired", "succeeded")
    await assert_sound(scene.system, scene.operator, [scene.scooter])
    assert len(scene.scooter.heard) == heard


async def test_frozen_before_the_row_it_wakes_up_after_the_ttl_and_sends_nothing(
    scene: Scene,
) -> None:
    async with _locked(scene.system, "commands"):
        asked_ms = wall_ms()
        ref = await scene.operator.ask("SC-0001", "unlock", ttl=SHORT_TTL_S)
        await eventually(scene.waits, within_s=30, what="the gateway to wait for a row")
        scene.gateway.pause()
    await past(asked_ms + SHORT_TTL_S * 1000 + 500)
    scene.gateway.resume()
    await scene.operator.until(ref)
    await assert_sound(scene.system, scene.operator, [scene.scooter])
    assert scene.scooter.heard == []


async def test_a_publish_that_reaches_the_broker_after_the_ttl_is_not_obeyed(
    scene: Scene,
) -> None:
    scene.gate.hold(_publishes("/downlink", "/commands", is_up=True))
    asked_ms = wall_ms()
    ref = await scene.operator.ask("SC-0001", "unlock", ttl=SHORT_TTL_S)
    await past(asked_ms + SHORT_TTL_S * 1000 + 500)
    scene.gate.release()
    await scene.operator.until(ref)
    await assert_sound(scene.system, scene.operator, [scene.scooter])
    assert scene.scooter.executed == []
    assert {error for _, error in scene.scooter.refused} <= {"expired"}


async def test_a_request_that_waited_ten_minutes_for_the_gateway_is_refused(scene: Scene) -> None:
    await scene.gateway.kill()
    ref = await scene.operator.ask("SC-0001", "unlock", at=wall_ms() - 600_000)
    setting = await scene.operator.ask(
        "SC-0001", "set_speed_limit", params={"kmh": 15}, at=wall_ms() - 600_000
    )
    await scene.start()
    assert (await scene.operator.until(ref))["detail"].startswith("expired")
    assert (await scene.operator.until(setting))["status"] == "succeeded", "it counts for a week"
    await assert_sound(scene.system, scene.operator, [scene.scooter])
    assert [each.command for each in scene.scooter.executed] == ["set_speed_limit"]
