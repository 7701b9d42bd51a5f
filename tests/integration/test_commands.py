"""Journey 2 on real servers: request, ledger, dispatch, ack, reply."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from devices.contract import mac, topics
from tests.commanding import (
    KEY,
    FakeOperator,
    FakeScooter,
    Stage,
    is_silent,
    succeeds,
    wall_ms,
)
from tests.eventually import eventually
from tests.registration import register
from tests.services import MosquittoService


@pytest.fixture
def stage(mosquitto: MosquittoService, redis_url: str, postgres_url: str) -> Stage:
    return Stage(mosquitto, redis_url, postgres_url)


@asynccontextmanager
async def cast(
    stage: Stage, scooter_id: str, **settings: object
) -> AsyncIterator[tuple[FakeScooter, FakeOperator]]:
    """A gateway, one scooter that is online and one operator that may do everything."""
    await register(stage.postgres_url, [scooter_id])
    await stage.grant()
    async with (
        stage.gateway(f"g-{scooter_id}", **settings),
        stage.scooter(scooter_id) as scooter,
        stage.operator() as operator,
    ):
        await scooter.born()
        await scooter.report(lock="locked", tip=False, batt=80)

        async def known() -> bool:
            ref = await operator.ask(scooter_id, "get_state")
            return bool((await operator.ended(ref))["status"] == "succeeded")

        await eventually(known, within_s=30.0, what="the scooter to be known")
        yield scooter, operator


async def test_a_command_is_recorded_sent_answered_and_replied(
    stage: Stage, scooter_id: str
) -> None:
    async with cast(stage, scooter_id) as (scooter, operator):
        ref = await operator.ask(scooter_id, "unlock", reason="a customer")
        end = await operator.ended(ref)
        assert end["status"] == "succeeded"
        assert operator.story(ref) == ["sent", "received", "succeeded"]
        assert await stage.moves(ref) == operator.story(ref)
        assert [each["move"] for each in operator.replies if each["ref"] == ref] == [1, 2, 3]
        command = scooter.commands[-1]
        assert command["command"] == "unlock"
        assert command["request_id"] == end["request_id"]
        assert command["boot"] == 1
        assert scooter.up < command["exp"] <= scooter.up + 20_000


async def test_correlation_data_comes_back_and_a_3_1_1_operator_misses_nothing_else(
    stage: Stage, scooter_id: str
) -> None:
    async with cast(stage, scooter_id) as (_, operator), stage.operator(protocol=4) as older:
        body = {"at": wall_ms(), "scooter_id": scooter_id, "command": "locate"}
        own = f"{topics.replies(KEY)}/mine"
        await operator.publish(
            orjson.dumps(body | {"ref": "five"}), correlation=b"\x01c", response_topic=own
        )
        await operator.ended("five")
        heard = [
            (topic, correlation)
            for topic, correlation, reply in zip(
                operator.topics, operator.correlations, operator.replies, strict=True
            )
            if reply["ref"] == "five"
        ]
        assert heard == [(own, b"\x01c")] * 3
        await older.publish(orjson.dumps(body | {"ref": "four"}))
        await older.ended("four")
        assert older.story("four") == ["sent", "received", "succeeded"]


async def test_bad_requests_are_answered_or_kept_as_rejects(stage: Stage, scooter_id: str) -> None:
    async with cast(stage, scooter_id) as (scooter, operator):
        commands = len(scooter.commands)
        good = {"at": wall_ms(), "scooter_id": scooter_id, "command": "lock"}
        bad = {
            "no json": b"lock it",
            "no ref": orjson.dumps(good),
            "oversize": orjson.dumps(good | {"ref": "o", "reason": "x" * 3000}),
            "unknown scooter": orjson.dumps(good | {"ref": "s", "scooter_id": "nobody-1"}),
            "unknown command": orjson.dumps(good | {"ref": "c", "command": "explode"}),
            "out of range": orjson.dumps(
                good | {"ref": "p", "command": "locate", "params": {"s": 99}}
            ),
        }
        before = len(operator.replies)
        for payload in bad.values():
            await operator.publish(payload)
        await operator.publish(orjson.dumps(good | {"ref": "q"}), retain=True)

        async def answered() -> bool:
            return len(operator.replies) >= before + len(bad) + 1

        await eventually(answered, what="every refusal")
        words = [each["detail"].partition(":")[0] for each in operator.replies[before:]]
        assert sorted(words) == sorted(
            ["bad_request"] * 3 + ["unknown_scooter", "unknown_command", "bad_params", "retained"]
        )
        await operator.publish(b"", retain=True)  # clears it, and is no request either
        assert len(scooter.commands) == commands

        async def kept() -> bool:
            rows = await stage.ask(
                "SELECT reason FROM rejects WHERE topic = $1", topics.requests(KEY)
            )
            return {row[0].partition(":")[0] for row in rows} == {"bad_request", "retained"}

        await eventually(kept, what="the rejects")


async def test_an_ack_for_anothers_command_is_a_reject_and_changes_nothing(
    stage: Stage, scooter_id: str
) -> None:
    thief = f"{scooter_id}x"
    await register(stage.postgres_url, [thief])
    async with cast(stage, scooter_id) as (scooter, operator), stage.scooter(thief) as other:
        scooter.answer = is_silent
        ref = await operator.ask(scooter_id, "lock")
        await operator.until(ref, "sent")

        async def arrived() -> bool:
            return bool(scooter.commands[-1]["command"] == "lock")

        await eventually(arrived, what="the command")
        request_id = scooter.commands[-1]["request_id"]
        await other.ack(request_id, status="success", lock="locked")

        async def kept() -> bool:
            rows = await stage.ask("SELECT reason FROM rejects WHERE scooter_id = $1", thief)
            return [row[0].partition(":")[0] for row in rows] == ["ack"]

        await eventually(kept, what="the reject")
        assert operator.story(ref) == ["sent"]
        await scooter.ack(request_id, status="success", lock="locked")
        await operator.until(ref, "succeeded")


async def test_a_scooter_that_never_answers_ends_in_timed_out_and_telemetry_resolves_it(
    stage: Stage, scooter_id: str
) -> None:
    async with cast(stage, scooter_id) as (scooter, operator):
        scooter.answer = is_silent
        ref = await operator.ask(scooter_id, "unlock", ttl=2.0)
        await operator.until(ref, "timed_out")
        assert len(scooter.commands) - 1 == len([s for s in operator.story(ref) if s == "sent"])
        await scooter.report(lock="unlocked", tip=False)
        late = await operator.until(ref, "succeeded")
        assert late["detail"].startswith("telemetry")


async def test_nobody_subscribed_is_away_at_once_and_what_waits_leaves_at_the_birth(
    stage: Stage, scooter_id: str
) -> None:
    await register(stage.postgres_url, [scooter_id])
    await stage.grant()
    async with stage.gateway(f"g-{scooter_id}"), stage.operator() as operator:
        async with stage.scooter(scooter_id, listens=False) as scooter:
            await scooter.born()

            async def refused() -> bool:
                ref = await operator.ask(scooter_id, "lock")
                end = await operator.ended(ref)
                return bool(end["detail"].startswith("away"))

            await eventually(refused, within_s=30.0, what="away")
            first = await operator.ask(scooter_id, "set_speed_limit", params={"kmh": 12})
            await operator.until(first, "queued")
        async with stage.scooter(scooter_id) as scooter:
            scooter.boot = 2
            await scooter.born()
            await operator.until(first, "succeeded")
            assert operator.story(first) == ["sent", "queued", "sent", "received", "succeeded"]


async def test_a_signed_command_is_right_for_its_credential(stage: Stage, scooter_id: str) -> None:
    secret = "a-fleet-secret-of-more-than-32-characters"  # noqa: S105
    async with cast(stage, scooter_id, fleet_secret=secret) as (scooter, operator):
        rows = await stage.ask(
            "UPDATE scooters SET generation = 3, changed_in = pg_current_xact_id() "
            "WHERE scooter_id = $1 RETURNING generation",
            scooter_id,
        )
        assert rows[0][0] == 3
        key = mac.command_key(secret, scooter_id, 3)

        async def signed() -> bool:
            await operator.ended(await operator.ask(scooter_id, "locate"))
            return bool(mac.verify(key, topics.commands(scooter_id), scooter.payloads[-1]))

        await eventually(signed, what="a signed command")
        assert len(scooter.payloads[-1]) <= 200


async def test_a_killed_gateway_resumes_under_the_same_id(stage: Stage, scooter_id: str) -> None:
    async with cast(stage, scooter_id) as (scooter, operator):
        scooter.answer = is_silent
        ref = await operator.ask(scooter_id, "lock")
        await operator.until(ref, "sent")
    async with (
        stage.scooter(scooter_id) as scooter,
        stage.operator() as operator,
        stage.gateway(f"g-{scooter_id}"),
    ):
        end = await operator.ended(ref, within_s=40.0)
        assert end["status"] == "succeeded"
        assert end["request_id"] == scooter.commands[0]["request_id"]


async def test_every_delivery_of_operators_and_scooters_has_one_outcome(
    stage: Stage, scooter_id: str
) -> None:
    await register(stage.postgres_url, [scooter_id])
    await stage.grant()
    async with (
        stage.gateway(f"g-{scooter_id}") as metrics,
        stage.scooter(scooter_id) as scooter,
        stage.operator() as operator,
    ):
        await scooter.born()
        for _ in range(20):
            ref = await operator.ask(scooter_id, "locate")
            await operator.ended(ref)
        await operator.publish(b"nothing")

        async def settled() -> bool:
            return metrics.outcomes()["rejected"] > 0 and metrics.is_balanced()

        await eventually(settled, what="a balanced account")
        assert metrics.outcomes()["request"] == 20
        assert metrics.outcomes()["ack"] >= 2


async def test_a_request_that_waited_in_the_gateways_queue_is_not_carried_out(
    stage: Stage, scooter_id: str
) -> None:
    async with cast(stage, scooter_id):
        pass  # its session stays at the broker
    async with stage.scooter(scooter_id) as scooter, stage.operator() as operator:
        late = await operator.ask(scooter_id, "unlock", at=wall_ms() - 600_000)
        fresh = await operator.ask(scooter_id, "locate", at=wall_ms())
        async with stage.gateway(f"g-{scooter_id}"):
            end = await operator.ended(late, within_s=30.0)
            assert end["detail"].startswith("expired")
            await operator.ended(fresh, within_s=30.0)
        assert [each["command"] for each in scooter.commands if each["command"] == "unlock"] == []


async def test_whoever_stands_by_carries_on_when_the_primary_is_gone(
    stage: Stage, scooter_id: str
) -> None:
    await register(stage.postgres_url, [scooter_id])
    await stage.grant()
    async with (
        stage.scooter(scooter_id, is_silent) as scooter,
        stage.operator() as operator,
    ):
        async with stage.gateway(f"a-{scooter_id}") as first:
            await scooter.born()
            ref = await operator.ask(scooter_id, "lock")
            await operator.until(ref, "sent", within_s=30.0)
            assert first.value("gateway_primary") == 1
        scooter.answer = succeeds
        async with stage.gateway(f"b-{scooter_id}"):
            end = await operator.ended(ref, within_s=60.0)
    assert end["status"] == "succeeded"
    assert {each["request_id"] for each in scooter.commands} == {end["request_id"]}
    assert [each["status"] for each in operator.replies][-1] == "succeeded"
    # A reply that left just before its gateway did comes again, the same to the byte.
    told = {orjson.dumps(each): each["status"] for each in operator.replies if each["ref"] == ref}
    assert await stage.moves(ref) == list(told.values())


@pytest.mark.parametrize("below", ["/#", "/+/a", "/a b", "/7"])
async def test_a_response_topic_that_nobody_can_publish_on_stops_no_reply(
    stage: Stage, scooter_id: str, below: str
) -> None:
    async with cast(stage, scooter_id) as (_, operator):
        body = {"ref": "odd", "at": wall_ms(), "scooter_id": scooter_id, "command": "locate"}
        own = topics.replies(KEY)
        taken = await stage.take(orjson.dumps(body), response_topic=f"{own}{below}")
        assert taken or {"#", "+"} & set(below)
        assert not taken or (await operator.ended("odd"))["status"] == "succeeded"
        ref = await operator.ask(scooter_id, "headlight", params={"on": True})
        assert (await operator.ended(ref))["status"] == "succeeded"
