"""Nothing unlocks late and nothing twice, whatever holds a command up on its way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import mqtt5
import pytest

from tests.e2e.commanding import Operator, assert_sound, cast, known, online, past
from tests.e2e.gate import Gate
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually

TTL_S = 3
DAY_MS = 86_400_000


def _is_command(_client_id: str, is_up: bool, packet: mqtt5.Packet) -> bool:  # noqa: FBT001
    if is_up or not isinstance(packet, mqtt5.PublishPacket):
        return False
    return packet.topic.endswith("/commands")


def _is_ack(_client_id: str, is_up: bool, packet: mqtt5.Packet) -> bool:  # noqa: FBT001
    return is_up and isinstance(packet, mqtt5.PublishPacket) and packet.topic.endswith("/acks")


@asynccontextmanager
async def _frozen(gate: Gate) -> AsyncIterator[None]:
    """The scooter's connection stays open and hands over no command until the block ends."""
    gate.hold(_is_command)
    try:
        yield
    finally:
        gate.release()


async def _reached(gate: Gate) -> None:
    await asyncio.wait_for(gate.reached.wait(), 30)


async def _heard(scooter: Scooter, count: int) -> None:
    async def probe() -> bool:
        return len(scooter.heard) >= count

    await eventually(probe, within_s=60, what=f"{count} commands at {scooter.scooter_id}")


async def test_what_comes_out_of_a_frozen_connection_after_its_time_is_not_obeyed(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with (
        Gate(system.mqtt_port) as gate,
        cast(system, scooter) as (_, operator),
        online(system, scooter, port=gate.port),
    ):
        async with _frozen(gate):
            ref = await operator.ask("SC-0001", "unlock", ttl=TTL_S)
            await _reached(gate)
            assert (await operator.until(ref))["status"] == "timed_out"
        await _heard(scooter, 1)
        assert scooter.executed == []
        assert [error for _, error in scooter.refused] == ["expired"]
        await operator.until(ref, "rejected")
        assert operator.story(ref) == ["sent", "timed_out", "rejected"]
        await assert_sound(system, operator, [scooter])


async def test_what_comes_out_of_a_frozen_connection_in_time_is_done_once_with_its_resends(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with (
        Gate(system.mqtt_port) as gate,
        cast(system, scooter) as (_, operator),
        online(system, scooter, port=gate.port),
    ):
        async with _frozen(gate):
            ref = await operator.ask("SC-0001", "unlock")

            async def sent_again() -> bool:
                return operator.story(ref) == ["sent", "sent"]

            await eventually(sent_again, within_s=30, what="a resend")
        end = await operator.until(ref)
        await _heard(scooter, 2)
        assert end["status"] == "succeeded"
        assert len(scooter.executed) == scooter.repeated == 1
        await assert_sound(system, operator, [scooter])


async def test_a_resend_that_races_the_answer_changes_nothing(system: System) -> None:
    scooter = Scooter("SC-0001")
    async with (
        Gate(system.mqtt_port) as gate,
        cast(system, scooter) as (gateway, operator),
        online(system, scooter, port=gate.port),
    ):
        gate.hold(_is_ack)  # it unlocked at once, and its answer takes its time
        ref = await operator.ask("SC-0001", "unlock")
        await _heard(scooter, 2)
        gate.release()
        assert (await operator.until(ref))["status"] == "succeeded"

        async def repeated() -> bool:
            return (await gateway.metrics()).value("acks_without_effect_total") >= 1

        await eventually(repeated, within_s=30, what="the answer to the resend")
        assert len(scooter.executed) == scooter.repeated == 1
        await assert_sound(system, operator, [scooter])


@pytest.mark.parametrize("returns_in_time", [True, False], ids=["in time", "late"])
async def test_a_command_in_the_queue_of_a_broker_that_is_restarted_is_done_in_time_or_never(
    system: System, *, returns_in_time: bool
) -> None:
    scooter = Scooter("SC-0001")
    mosquitto = system.servers.mosquitto
    async with cast(system, scooter) as (_, operator):
        async with online(system, scooter, keeps_session=True):
            pass
        ttl_s = 20 if returns_in_time else TTL_S
        asked_ms = wall_ms()
        ref = await operator.ask("SC-0001", "unlock", ttl=ttl_s)
        await operator.until(ref, "sent")
        await asyncio.to_thread(mosquitto.stop)
        await asyncio.to_thread(mosquitto.start)
        if not returns_in_time:
            await past(asked_ms + ttl_s * 1000)
        async with scooter.online(system.mqtt_port, keeps_session=True):
            end = await operator.until(ref)
            if returns_in_time:
                assert end["status"] == "succeeded"
            else:
                assert end["status"] == "timed_out"
                assert scooter.executed == []
            await assert_sound(system, operator, [scooter])


async def test_a_broker_that_is_killed_costs_an_operator_who_asks_again_nothing(
    system: System,
) -> None:
    scooters = [Scooter(f"SC-{number:04d}") for number in range(5)]
    mosquitto = system.servers.mosquitto
    async with cast(system, *scooters) as (_, operator), online(system, *scooters):
        refs = [await operator.ask(each.scooter_id, "unlock") for each in scooters]
        await asyncio.to_thread(mosquitto.kill)
        await asyncio.to_thread(mosquitto.start)
        # What it had confirmed is gone where it was not on its disk: requests and replies too.
        for ref in refs:
            await operator.again(ref)
            await operator.until(ref)
        await assert_sound(system, operator, scooters)
        for ref in refs:  # a gateway that was back first finds nobody who listens
            end = operator.of(ref)[-1]
            assert end["status"] == "succeeded" or end["detail"].startswith("away"), end


async def test_a_scooter_that_booted_since_obeys_nothing_that_was_meant_for_the_boot_before(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator):
        async with online(system, scooter, keeps_session=True):
            pass
        ref = await operator.ask("SC-0001", "unlock")
        await operator.until(ref, "sent")
        scooter.reboot()
        async with scooter.online(system.mqtt_port, keeps_session=True):
            await _heard(scooter, 1)
            assert scooter.executed == []
            assert [error for _, error in scooter.refused] == ["expired"]
            assert (await operator.until(ref))["status"] == "rejected"
            scooter.report()
            await known(system, scooter)
            again = await operator.ask("SC-0001", "unlock")
            assert (await operator.until(again))["status"] == "succeeded"
            await assert_sound(system, operator, [scooter])


async def test_a_scooter_that_rebooted_after_it_obeyed_does_not_do_it_again(
    system: System,
) -> None:
    scooter = Scooter("SC-0001", finishes=False)
    async with (
        Gate(system.mqtt_port) as gate,
        cast(system, scooter) as (_, operator),
    ):
        gate.hold(_is_ack)  # nobody hears that it obeyed
        async with online(system, scooter, port=gate.port):
            ref = await operator.ask("SC-0001", "unlock", ttl=9)
            await _heard(scooter, 1)
        gate.release()
        assert len(scooter.executed) == 1
        scooter.reboot()
        async with online(system, scooter):
            assert (await operator.until(ref))["status"] in ("timed_out", "rejected")
            await assert_sound(system, operator, [scooter])


@pytest.mark.parametrize("for_long", [False, True], ids=["a moment", "longer than the ttl"])
async def test_a_scooter_that_was_offline_is_refused_or_does_it_in_time(
    system: System, *, for_long: bool
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator):
        async with online(system, scooter, keeps_session=True):
            pass  # the gateway does not know yet that it is gone
        asked_ms = wall_ms()
        ref = await operator.ask("SC-0001", "unlock", ttl=TTL_S if for_long else 20)
        await operator.until(ref, "sent")
        if for_long:
            await past(asked_ms + TTL_S * 1000)
        async with scooter.online(system.mqtt_port, keeps_session=True):
            end = await operator.until(ref)
            assert end["status"] == ("timed_out" if for_long else "succeeded")
            await assert_sound(system, operator, [scooter])
        gone = await operator.ask("SC-0001", "locate", ttl=TTL_S)
        await operator.until(gone)
        await assert_sound(system, operator, [scooter])


@pytest.mark.parametrize(
    "off_ms", [DAY_MS, -DAY_MS, -1_700_000_000_000, None], ids=["ahead", "behind", "1970", "none"]
)
async def test_a_scooters_clock_counts_for_nothing(system: System, off_ms: int | None) -> None:
    scooter = Scooter("SC-0001", clock_off_ms=off_ms)
    async with (
        Gate(system.mqtt_port) as gate,
        cast(system, scooter) as (_, operator),
        online(system, scooter, port=gate.port),
    ):
        ref = await operator.ask("SC-0001", "unlock")
        assert (await operator.until(ref))["status"] == "succeeded"
        await _never_late(operator, gate, scooter)
        await assert_sound(system, operator, [scooter])


async def _never_late(operator: Operator, gate: Gate, scooter: Scooter) -> None:
    done = len(scooter.executed)
    async with _frozen(gate):
        ref = await operator.ask("SC-0001", "lock", ttl=TTL_S)
        assert (await operator.until(ref))["status"] == "timed_out"
    await operator.until(ref, "rejected")
    assert len(scooter.executed) == done
