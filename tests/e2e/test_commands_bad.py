"""What nobody may carry out: requests that are wrong, and answers that are not what they say."""

from typing import Any

import asyncpg
import orjson

from devices.contract import topics
from devices.contract.topics import Uplink
from devices.operators import Operators
from gateway.telemetry.state_store import SCOOTER
from tests.commanding import KEY
from tests.e2e.commanding import Operator, assert_sound, cast, grant, online, until_standing
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess
from tests.load import publish
from tests.wire import Message

PHONE = "bob.phone"


def _request(ref: str | None, **members: Any) -> bytes:  # noqa: ANN401 - of a request
    body = {"ref": ref, "at": wall_ms(), "scooter_id": "SC-0001", "command": "unlock"}
    return orjson.dumps(
        {name: value for name, value in (body | members).items() if value is not None}
    )


async def test_each_bad_request_is_told_why_and_what_cannot_be_told_is_a_reject(
    system: System,
) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator), online(system, scooter):
        await grant(system.servers.postgres_url, PHONE, commands=("locate",))
        await operator.until(await operator.ask("SC-0001", "locate", login=PHONE))
        scooter.executed.clear()
        bad: dict[str, tuple[str, bytes]] = {
            "not JSON": ("bad_request", b"unlock it!"),
            "no object": ("bad_request", b"[]"),
            "no ref": ("bad_request", _request(None)),
            "no time": ("bad_request", _request("x", at=None)),
            "oversize": ("bad_request", _request("x", reason="x" * 3000)),
            "unknown scooter": ("unknown_scooter", _request("s", scooter_id="nobody-1")),
            "unknown command": ("unknown_command", _request("c", command="explode")),
            "out of range": ("bad_params", _request("p", command="locate", params={"s": 31})),
            "too long a ttl": ("bad_request", _request("t", ttl=21)),
            "too old": ("expired", _request("o", at=wall_ms() - 20_000)),
            "ahead of us": ("clock_ahead", _request("a", at=wall_ms() + 60_000)),
        }
        for word, payload in bad.values():
            await _refused(operator, word, payload)
        await _refused(operator, "no_right", _request("n"), login=PHONE)
        await _refused(operator, "retained", _request("r"), retain=True)
        await operator.publish(b"", retain=True)
        async with asyncpg.create_pool(system.servers.postgres_url, min_size=1) as pool:
            await Operators(pool).revoke("bob", by="tests")
        await _is_revoked(operator)
        assert scooter.executed == []

        before = await _rejects(system)
        await publish(system.mqtt_port, Message("operators/SC-0001/commands", _request("m")))

        async def rejected() -> bool:
            return await _rejects(system) > before

        await eventually(rejected, what="a reject of who is no operator")
        await assert_sound(system, operator, [scooter])


async def _refused(
    operator: Operator, word: str, payload: bytes, *, login: str = KEY, retain: bool = False
) -> None:
    before = len(operator.replies)
    await operator.publish(payload, login=login, retain=retain)

    async def told() -> bool:
        return len(operator.replies) > before

    await eventually(told, within_s=30, what=f"the refusal of {payload[:80]!r}")
    assert operator.properties[before][0] == topics.replies(login)
    assert operator.replies[before]["status"] == "refused"
    assert operator.replies[before]["detail"].startswith(word), operator.replies[before]


async def _is_revoked(operator: Operator) -> None:
    """The gateway learns of it a moment later; then the key is nobody's."""

    async def told() -> bool:
        ref = await operator.ask("SC-0001", "unlock", login=PHONE)
        return "no active key" in (await operator.until(ref)).get("detail", "")

    await eventually(told, within_s=30, what="the refusal of a revoked key")


async def _rejects(system: System) -> int:
    rows = await system.ask("SELECT coalesce(sum(count), 0)::bigint AS n FROM rejects")
    return int(rows[0]["n"])


async def test_an_ack_that_is_altered_replayed_or_for_anothers_command_changes_nothing(
    system: System,
) -> None:
    scooter, thief = Scooter("SC-0001", finishes=False), Scooter("SC-0002")
    async with (
        cast(system, scooter, thief) as (gateway, operator),
        online(system, scooter, thief),
    ):
        ref = await operator.ask("SC-0001", "unlock")
        request_id = (await operator.until(ref, "received"))["request_id"]

        thief.ack(request_id, "success", lock="unlocked")
        thief.ack("0123456789abcdef", "success", lock="unlocked")
        await _counts(gateway, "acks_foreign_total", 2)
        assert await system.redis.hget(f"{SCOOTER}SC-0002", "lock") == b"locked"
        assert operator.story(ref) == ["sent", "received"]

        rejects = await _rejects(system)
        altered = [
            {"request_id": request_id.upper() + "x", "status": "success"},
            {"request_id": request_id, "status": "sent"},
            {"request_id": request_id},
            {"request_id": 7, "status": "success"},
        ]
        for body in altered:
            scooter.say(Uplink.ACKS, body)

        async def are_rejects() -> bool:
            return await _rejects(system) >= rejects + len(altered)

        await eventually(are_rejects, within_s=30, what="rejects of altered acks")
        assert operator.story(ref) == ["sent", "received"]

        scooter.finish()
        await until_standing(system, ref, "succeeded")
        scooter.ack(request_id, "success", lock="unlocked")
        scooter.ack(request_id, "error", error="jammed")
        await _counts(gateway, "acks_without_effect_total", 2)
        await assert_sound(system, operator, [scooter, thief])
        assert operator.story(ref) == ["sent", "received", "succeeded"]


async def test_a_command_that_was_tampered_with_or_replayed_is_not_obeyed(system: System) -> None:
    scooter = Scooter("SC-0001")
    async with cast(system, scooter) as (_, operator), online(system, scooter):
        await operator.until(await operator.ask("SC-0001", "lock"))
        locked = scooter.heard[-1][0]
        forged = [
            locked.replace(b'"lock"', b'"unlock"'),  # the signature is another's
            locked[:-43] + b"}",  # none
        ]
        for payload in (*forged, locked):
            await publish(system.mqtt_port, Message(topics.commands("SC-0001"), payload))

        async def heard() -> bool:
            return len(scooter.heard) == 4

        await eventually(heard, what="every copy")
        assert [error for _, error in scooter.refused] == ["bad_mac", "bad_mac"]
        assert scooter.repeated == 1
        assert len(scooter.executed) == 1
        await assert_sound(system, operator, [scooter])


async def _counts(gateway: GatewayProcess, name: str, count: int) -> None:
    async def probe() -> bool:
        return (await gateway.metrics()).value(name) >= count

    await eventually(probe, within_s=30, what=f"{name} {count}")
