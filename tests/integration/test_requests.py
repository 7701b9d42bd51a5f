"""Requests on a real ledger: recorded or refused, once, before anybody is told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from devices.contract import mac, topics
from devices.contract.commands import REQUEST_MAX, CommandStatus
from devices.standing import Standing
from gateway.commands import wishes
from gateway.commands.requests import RECORD_WITHIN_S
from gateway.errors import ServerAway
from gateway.local.servers import Servers
from tests.command_office import (
    KEY,
    SECRET,
    FakePublisher,
    Office,
    is_there,
    now_ms,
    open_office,
    raw,
    ref_of,
    request,
    statuses,
)

S = CommandStatus


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis) as office:
        yield office


async def test_a_request_becomes_a_command_on_its_way(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "unlock", reason="a customer")
    assert await office.ask(asked) == [None]
    assert office.publisher.sent == []  # nobody is told before the row is there
    row = await office.row(ref_of(asked))
    assert (row["status"], row["operator"], row["login"]) == ("sent", "alice", KEY)
    assert (row["reason"], row["sends"], row["boot"]) == ("a customer", 1, 7)

    await office.dispatch()
    (sent,) = office.publisher.commands(scooter_id)
    command = sent.command
    assert (command.request_id, command.n, command.boot) == (row["request_id"], row["n"], 7)
    assert command.exp == row["exp"]
    assert command.exp is not None
    assert 60_000 < command.exp <= 60_000 + 20_000 + 1000
    assert sent.expiry_s == 19
    key = mac.command_key(SECRET, scooter_id, 1)
    assert mac.verify(key, topics.commands(scooter_id), sent.payload)


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"not json", "bad_request"),
        (b"{}", "bad_request"),
        (b'{"at":1,"scooter_id":"SC-0001","command":"lock"}', "bad_request"),
        (b'{"ref":"r","scooter_id":"SC-0001","command":"lock"}', "bad_request"),
        (b'{"ref":"r","at":1,"scooter_id":"SC-0001","command":"a\\u0000"}', "bad_request"),
        (b" " * (REQUEST_MAX + 1), "bad_request"),
    ],
)
async def test_what_is_no_request_is_a_reject_and_gets_a_reply(
    office: Office, payload: bytes, word: str
) -> None:
    (reason,) = await office.ask(raw(payload))
    assert reason is not None
    (reply,) = await office.reply()
    assert reply["status"] == "refused"
    assert reply["detail"].partition(":")[0] == word
    assert reply["detail"] == reason


async def test_a_bad_request_is_answered_with_what_could_be_read_of_it(office: Office) -> None:
    await office.ask(raw(b'{"ref":"r7","scooter_id":"SC-0001","command":"lock","at":"now"}'))
    (reply,) = await office.reply()
    assert (reply["ref"], reply["scooter_id"], reply["command"]) == ("r7", "SC-0001", "lock")


async def test_who_is_no_operator_is_a_reject(office: Office, scooter_id: str) -> None:
    asked = request(scooter_id)
    (reason,) = await office.ask(raw(asked.payload, topic=f"operators/{scooter_id}/commands"))
    assert reason is not None
    assert await office.reply() == []  # nobody could read it
    (reason,) = await office.ask(request(scooter_id, login="mallory.desk"))
    assert reason is not None
    assert "no active key" in reason
    assert await office.pool.fetchval("SELECT count(*) FROM commands") == 0
    await office.reply()
    (told,) = office.publisher.replies("mallory.desk")
    assert told["detail"].startswith("no_right")


async def test_a_retained_request_is_never_carried_out(office: Office, scooter_id: str) -> None:
    (reason,) = await office.ask(request(scooter_id, retain=True))
    assert reason is not None
    assert reason.startswith("retained")
    assert await office.pool.fetchval("SELECT count(*) FROM commands") == 0
    (reply,) = await office.reply()
    assert reply["detail"].startswith("retained")


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"command": "explode"}, {}, "unknown_command"),
    ({"command": "locate", "params": {"s": 31}}, {}, "bad_params"),
    ({"at": -600_000}, {}, "expired"),
    ({"at": 600_000}, {}, "clock_ahead"),
    ({}, {"presence": "lost"}, "away"),
    ({}, {"battery_percent": "4"}, "low_battery"),
    ({}, {"uptime_ms": None}, "no_uptime"),
    ({"command": "reboot"}, {"lock": "unlocked"}, "not_locked"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[2])
async def test_a_refusal_is_recorded_with_its_reason(
    office: Office,
    redis: Redis,
    scooter_id: str,
    case: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    members, state, word = case
    await is_there(redis, scooter_id, **state)
    if "at" in members:
        members = members | {"at": now_ms() + members["at"]}
    asked = request(scooter_id, **members)
    assert await office.ask(asked) == [None]
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    (reply,) = await office.reply()
    assert (reply["status"], reply["move"]) == ("refused", 1)
    assert reply["detail"].partition(":")[0] == word
    row = await office.row(ref_of(asked))
    assert (row["status"], row["detail"]) == ("refused", reply["detail"])


async def test_rights_and_standing_are_asked_of_the_registry(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    office.rights.forbidden.add((KEY, "unlock"))
    office.rights.standings[f"{scooter_id}x"] = None
    office.rights.standings[f"{scooter_id}y"] = Standing.RETIRED
    asked = [request(scooter_id), request(f"{scooter_id}x"), request(f"{scooter_id}y", "lock")]
    await office.ask(*asked)
    replies = await office.reply()
    words = {each["ref"]: each["detail"].partition(":")[0] for each in replies}
    assert [words[ref_of(each)] for each in asked] == [
        "no_right",
        "unknown_scooter",
        "unknown_scooter",
    ]


async def test_the_same_request_twice_is_one_command_told_twice(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "lock")
    await office.ask(asked)
    await office.dispatch()
    await office.ask(asked)
    await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 1
    replies = await office.reply()
    assert statuses(replies, ref_of(asked)) == ["sent", "sent"]
    assert [each["move"] for each in replies] == [1, 1]
    assert await office.pool.fetchval("SELECT count(*) FROM commands") == 1


async def test_the_same_ref_with_other_content_is_refused(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "lock", ref="mine")
    await office.ask(asked)
    await office.ask(request(scooter_id, "unlock", ref="mine"))
    replies = await office.reply()
    assert statuses(replies, "mine") == ["sent", "refused"]
    assert replies[1]["detail"].startswith("ref_reused")
    assert "move" not in replies[1]
    assert await office.story("mine") == ["sent"]


async def test_another_key_may_use_the_same_ref(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    await office.ask(
        request(scooter_id, "lock", ref="1"),
        request(scooter_id, "locate", ref="1", login="alice.phone"),
    )
    rows = await office.pool.fetch("SELECT login, status FROM commands ORDER BY login")
    assert [tuple(row) for row in rows] == [(KEY, "sent"), ("alice.phone", "sent")]


async def test_a_newer_command_for_the_same_actuator_supersedes(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    older, other = request(scooter_id, "lock"), request(scooter_id, "locate")
    newer = request(scooter_id, "unlock", login="bob.desk")
    await office.ask(older, other, newer)  # also when they come together
    assert await office.story(ref_of(older)) == ["sent", "superseded"]
    assert await office.story(ref_of(other)) == ["sent"]
    assert await office.story(ref_of(newer)) == ["sent"]
    await office.dispatch()
    commands = [each.command.command for each in office.publisher.commands(scooter_id)]
    assert commands == ["locate", "unlock"]  # what is superseded is not sent any more
    by = await office.pool.fetchval("SELECT done_by FROM command_moves WHERE status = 'superseded'")
    assert by == "bob.desk"


async def test_issue_numbers_grow_for_a_scooter_and_begin_at_our_clock(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    numbers = []
    for _ in range(3):
        asked = request(scooter_id, "locate")
        await office.ask(asked)
        numbers.append((await office.row(ref_of(asked)))["n"])
    assert numbers == sorted(set(numbers))
    assert abs(numbers[0] - now_ms()) < 60_000
    ahead = 9_000_000_000_000
    await office.pool.execute("UPDATE command_numbers SET n = $1", ahead)
    asked = request(scooter_id, "locate")
    await office.ask(asked)
    assert (await office.row(ref_of(asked)))["n"] == ahead + 1


async def test_settings_wait_for_a_scooter_that_is_away(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    await office.ask(asked)
    await office.dispatch()
    assert await office.story(ref_of(asked)) == ["queued"]
    assert office.publisher.commands(scooter_id) == []


async def test_what_waits_can_be_cancelled_and_what_was_sent_cannot(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    waiting = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    await office.ask(waiting)
    target = (await office.row(ref_of(waiting)))["request_id"]
    office.rights.forbidden.add(("bob.desk", "set_speed_limit"))
    foreign = request(scooter_id, "cancel", params={"request_id": target}, login="bob.desk")
    elsewhere = request(f"{scooter_id}x", "cancel", params={"request_id": target})
    mine = request(scooter_id, "cancel", params={"request_id": target}, login="alice.phone")
    again = request(scooter_id, "cancel", params={"request_id": target})
    await office.ask(foreign, elsewhere)
    await office.ask(mine)
    await office.ask(again)
    assert await office.story(ref_of(waiting)) == ["queued", "cancelled"]
    for asked, word in [(foreign, "no_right"), (elsewhere, "bad_params"), (again, "not_waiting")]:
        row = await office.row(ref_of(asked))
        assert row["status"] == "refused"
        assert row["detail"].startswith(word)
    assert (await office.row(ref_of(mine)))["status"] == "succeeded"
    assert len(office.open) == 0


async def test_correlation_data_and_an_own_response_topic_are_kept(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    own = f"{topics.replies(KEY)}/7"
    await office.ask(
        request(scooter_id, "lock", correlation=b"\x00c", response_topic=own),
        request(scooter_id, "locate", response_topic=topics.replies("bob.desk")),
        request(scooter_id, "alarm", params={"on": True}, response_topic=f"{topics.replies(KEY)}x"),
    )
    await office.reply()
    told = {each.body["command"]: each for each in office.publisher.sent}
    assert (told["lock"].topic, told["lock"].correlation) == (own, b"\x00c")
    assert (told["locate"].topic, told["locate"].correlation) == (topics.replies(KEY), None)
    assert told["alarm"].topic == topics.replies(KEY)


async def test_correlation_data_that_is_too_long_is_refused(
    office: Office, scooter_id: str
) -> None:
    longest = b"c" * wishes.CORRELATION_MAX
    (reason,) = await office.ask(request(scooter_id, correlation=longest + b"c"))
    assert reason is not None
    assert reason.startswith("bad_request")


async def test_two_gateways_at_once_record_a_request_once(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    publisher = FakePublisher()
    async with (
        open_office(postgres_url, redis, publisher=publisher) as one,
        open_office(postgres_url, redis, publisher=publisher) as other,
    ):
        asked = [request(scooter_id, name) for name in ("lock", "unlock", "locate") * 5]
        await asyncio.gather(*(office.ask(each) for each in asked for office in (one, other)))
        stories = [await one.story(ref_of(each)) for each in asked]
        assert all(story[0] == "sent" for story in stories)
        open_now = await one.pool.fetch(
            "SELECT actuator FROM commands WHERE status IN ('queued', 'sent', 'received')"
        )
        assert sorted(row[0] for row in open_now) == ["locate", "lock"]


async def test_while_redis_is_away_nothing_is_decided(
    postgres_url: str, own_redis: Servers, scooter_id: str
) -> None:
    async with (
        Redis.from_url(own_redis.redis_url, socket_timeout=1) as redis,
        open_office(postgres_url, redis) as office,
    ):
        own_redis.redis.kill()
        with pytest.raises(ServerAway):
            await office.ask(request(scooter_id))
        assert await office.pool.fetchval("SELECT count(*) FROM commands") == 0


async def test_without_a_ledger_every_request_is_refused_at_once(
    own_postgres: Servers, redis: Redis, scooter_id: str
) -> None:
    from gateway.storage.migrate import migrate  # noqa: PLC0415

    await migrate(own_postgres.postgres_url)
    await is_there(redis, scooter_id)
    async with open_office(own_postgres.postgres_url, redis) as office:
        own_postgres.postgres.kill()
        asked = request(scooter_id, correlation=b"c")
        assert await office.ask(asked) == [None]
        await office.dispatch()
        assert office.publisher.commands(scooter_id) == []
        (sent,) = office.publisher.sent
        assert sent.correlation == b"c"
        assert sent.body["status"] == "refused"
        assert sent.body["ref"] == ref_of(asked)
        assert sent.body["detail"].startswith("unavailable")


async def test_while_the_ledger_hangs_a_batch_waits_for_it_once(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """However many of its requests are for one scooter: statuses and acks are behind it."""
    await is_there(redis, scooter_id)
    asked = [request(scooter_id, "locate") for _ in range(4)]
    async with office.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE commands")
        began = asyncio.get_running_loop().time()
        assert await office.ask(*asked) == [None] * 4
        assert asyncio.get_running_loop().time() - began < 2 * RECORD_WITHIN_S
    told = {each["ref"]: each["detail"].partition(":")[0] for each in office.publisher.replies()}
    assert told == {ref_of(each): "unavailable" for each in asked}


async def test_what_postgres_cannot_store_is_refused_and_stops_nobody_else(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    await is_there(redis, f"{scooter_id}x")
    office.rights.keys[KEY] = "ali\0ce"
    broken, good = request(scooter_id), request(f"{scooter_id}x", login="bob.desk")
    assert await office.ask(broken, good) == [None, None]
    (reply,) = office.publisher.replies()
    assert (reply["ref"], reply["status"]) == (ref_of(broken), "refused")
    assert reply["detail"].startswith("bad_request")
    assert await office.story(ref_of(good)) == ["sent"]
