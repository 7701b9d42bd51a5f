"""Journey 2 on the whole system: what operators ask, what scooters do, and what both are told."""

import orjson

from devices.contract import topics
from gateway.telemetry.state_store import SCOOTER
from tests.commanding import KEY
from tests.e2e.commanding import (
    Operator,
    assert_sound,
    cast,
    online,
)
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.load import publish
from tests.wire import Message

STORY = ["sent", "received", "succeeded"]


async def test_lock_and_unlock_are_done_recorded_and_told_and_move_the_state(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator), online(system, scooter):
        for command, lock in (("unlock", "unlocked"), ("lock", "locked")):
            ref = await operator.ask("SC-0001", command, reason="a customer")
            end = await operator.until(ref)
            assert operator.story(ref) == STORY
            assert scooter.times(end["request_id"]) == 1
            assert scooter.executed[-1].command == command
            # The ack moved it: the scooter reported nothing since.
            assert await system.redis.hget(f"{SCOOTER}SC-0001", "lock") == lock.encode()
        await assert_sound(system, operator, [scooter])
    rows = await system.ask(
        "SELECT m.done_by FROM command_moves m JOIN commands USING (request_id) "
        "ORDER BY issued, number"
    )
    story = [KEY, "scooter:SC-0001", "scooter:SC-0001"]
    assert [row["done_by"] for row in rows] == 2 * story


async def test_correlation_data_and_response_topic_come_back_and_3_1_1_misses_only_those(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator), online(system, scooter):
        own = f"{topics.replies(KEY)}/phone"
        for ref, topic in (("own", own), ("foreign", "operators/bob.desk/replies")):
            body = {"ref": ref, "at": wall_ms(), "scooter_id": "SC-0001", "command": "locate"}
            await operator.publish(
                orjson.dumps(body), CorrelationData=b"\x00\xffme", ResponseTopic=topic
            )
            await operator.until(ref)
        heard = list(zip(operator.replies, operator.properties, strict=True))
        told = [how for reply, how in heard if reply["ref"] == "own"]
        assert told == [(own, b"\x00\xffme")] * 3
        told = [how for reply, how in heard if reply["ref"] == "foreign"]
        assert told == [(topics.replies(KEY), b"\x00\xffme")] * 3
        async with Operator(system.mqtt_port, protocol=4).running() as older:
            ref = await older.ask("SC-0001", "unlock")
            await older.until(ref)
            assert older.story(ref) == STORY
        await assert_sound(system, operator, [scooter])


async def test_a_command_for_a_sleeping_scooter_waits_leaves_in_order_or_expires(
    system: System,
) -> None:
    scooter, other = Scooter("SC-0001"), Scooter("SC-0002")
    async with cast(system, scooter, other) as (_, operator):
        async with online(system, scooter, other):
            for each in (scooter, other):
                each.goodbye("sleeping")
                await _is(system, each, "sleeping")
        first = await operator.ask("SC-0001", "set_report_interval", params={"parked": 60})
        old = await operator.ask("SC-0001", "set_speed_limit", params={"kmh": 20})
        second = await operator.ask("SC-0001", "set_speed_limit", params={"kmh": 15})
        hasty = await operator.ask("SC-0002", "set_speed_limit", params={"kmh": 10}, ttl=1.5)
        away = await operator.ask("SC-0001", "unlock")
        assert (await operator.until(away))["detail"].startswith("away")
        assert (await operator.until(old))["status"] == "superseded"
        assert (await operator.until(hasty))["status"] == "expired"
        async with online(system, scooter, other):
            for ref in (first, second):
                await operator.until(ref)
                assert operator.story(ref) == ["queued", *STORY]
            done = [each.command for each in scooter.executed]
            assert done == ["set_report_interval", "set_speed_limit"]
            await assert_sound(system, operator, [scooter, other])
        assert other.heard == []


async def test_a_retained_command_is_refused_reported_and_counted(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (gateway, operator):
        async with online(system, scooter):
            ref = await operator.ask("SC-0001", "locate")
            end = await operator.until(ref)
        command = Message(topics.commands("SC-0001"), scooter.heard[-1][0], retain=True)
        await publish(system.mqtt_port, command)
        scooter.obedience.reboot()  # a copy in time, of this boot, signed, and not remembered
        async with scooter.online(system.mqtt_port):

            async def heard() -> bool:
                return len(scooter.heard) == 2

            await eventually(heard, what="the retained command")
            assert scooter.heard[-1][1]
            assert scooter.refused == [(end["request_id"], "retained")]

            async def counted() -> bool:
                return (await gateway.metrics()).value("commands_retained_total") == 1

            await eventually(counted, what="the report of a retained command")
        await assert_sound(system, operator, [scooter])


async def _is(system: System, scooter: Scooter, presence: str) -> None:
    async def probe() -> bool:
        found = await system.redis.hget(f"{SCOOTER}{scooter.scooter_id}", "presence")
        return found == presence.encode()

    await eventually(probe, within_s=30, what=f"{scooter.scooter_id} {presence}")
