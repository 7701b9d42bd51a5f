"""Sends: recorded before they leave, again while nobody answers, never once the time is up."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from devices.contract.commands import COMMANDS
from gateway.errors import ServerAway
from gateway.links.downlink import Published, PublishUnknown
from tests.command_office import (
    FakePublisher,
    Office,
    is_there,
    now_ms,
    open_office,
    ref_of,
    request,
    statuses,
)
from tests.eventually import end, eventually


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis) as office:
        yield office


async def sent(office: Office, redis: Redis, scooter_id: str, command: str = "unlock") -> str:
    """A command that left once; returns its ref."""
    await is_there(redis, scooter_id)
    asked = request(scooter_id, command)
    await office.ask(asked)
    await office.dispatch()
    return ref_of(asked)


@pytest.mark.parametrize("command", ["unlock", "lock", "locate", "reboot"])
async def test_it_is_sent_again_under_its_id_with_a_new_number_until_the_resends_are_used_up(
    office: Office, redis: Redis, scooter_id: str, command: str
) -> None:
    ref = await sent(office, redis, scooter_id, command)
    rule = COMMANDS[command]
    for _ in range(4 * rule.ttl_s):
        await office.travel(0.25)
        await office.dispatch()
    commands = [each.command for each in office.publisher.commands(scooter_id)]
    assert len(commands) == 1 + rule.resends
    assert len({each.request_id for each in commands}) == 1
    numbers = [each.n for each in commands]
    assert numbers == sorted(set(numbers))
    assert await office.story(ref) == ["sent"] * len(commands)
    assert (await office.row(ref))["sends"] == len(commands)


async def test_nothing_leaves_in_the_last_second_or_after_it(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "unlock")
    await office.ask(asked)
    await office.travel(19.5)
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []


async def test_the_broker_and_the_scooter_are_told_what_is_left_of_the_time(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref = await sent(office, redis, scooter_id, "unlock")
    await office.travel(8.0)
    await is_there(redis, scooter_id, uptime_ms=68_000)
    await office.dispatch()
    first, second = office.publisher.commands(scooter_id)
    assert (first.expiry_s, second.expiry_s) == (19, 11)
    assert first.command.exp is not None
    assert second.command.exp is not None
    assert abs(second.command.exp - first.command.exp) < 2000  # the same moment of its uptime
    assert (await office.row(ref))["exp"] == second.command.exp


async def test_a_scooter_that_booted_since_is_not_sent_it_again(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """It may have carried it out before it booted, and forgotten that."""
    ref = await sent(office, redis, scooter_id, "unlock")
    await is_there(redis, scooter_id, boot=8, uptime_boot=8, uptime_ms=500)
    for _ in range(20):
        await office.travel(0.5)
        await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 1
    assert await office.story(ref) == ["sent"]


async def test_a_publish_without_an_answer_is_unknown_and_a_resend_decides(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    office.publisher.result = PublishUnknown("t")
    ref = await sent(office, redis, scooter_id, "unlock")
    assert await office.story(ref) == ["sent"]
    office.publisher.result = Published.NOBODY  # the first may have been delivered all the same
    await office.travel(7)
    await office.dispatch()
    assert await office.story(ref) == ["sent", "sent"]


async def test_without_the_broker_it_waits_and_leaves_as_it_was_recorded(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    office.publisher.result = ServerAway("broker", "not there")
    ref = await sent_while_away(office, redis, scooter_id)
    office.publisher.result = Published.TAKEN
    await office.travel(5)
    await office.dispatch()
    (only,) = office.publisher.commands(scooter_id)
    assert only.expiry_s == 14
    assert only.command.n == (await office.row(ref))["n"]
    assert await office.story(ref) == ["sent"]


async def sent_while_away(office: Office, redis: Redis, scooter_id: str) -> str:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "unlock")
    await office.ask(asked)
    command = office.open.take_due()
    assert command is not None
    await office.dispatcher.send(command)
    return ref_of(asked)


@pytest.mark.parametrize("command", ["unlock", "lock"])
async def test_a_scooter_that_does_not_subscribe_is_away(
    office: Office, redis: Redis, scooter_id: str, command: str
) -> None:
    office.publisher.result = Published.NOBODY
    ref = await sent(office, redis, scooter_id, command)
    assert await office.story(ref) == ["sent", "refused"]
    office.publisher.result = Published.TAKEN
    replies = await office.reply()
    assert statuses(replies, ref) == ["sent", "refused"]
    assert replies[-1]["detail"].startswith("away")
    assert len(office.open) == 0


async def test_what_waits_leaves_in_order_when_the_scooter_comes_online(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    first = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    second = request(scooter_id, "set_report_interval", params={"parked": 600})
    third = request(scooter_id, "set_speed_limit", params={"kmh": 25}, ttl=60.0)
    await office.ask(first, second)
    await office.ask(third)
    await office.taking_up.look_around()
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    await is_there(redis, scooter_id, boot=8, uptime_boot=8)
    office.dispatcher.came_online(scooter_id)
    await office.dispatch()
    left = [each.command.params for each in office.publisher.commands(scooter_id)]
    assert left == [{"parked": 600}, {"kmh": 25}]
    assert await office.story(ref_of(first)) == ["queued", "superseded"]
    assert await office.story(ref_of(third)) == ["queued", "sent"]


async def test_what_waits_leaves_when_a_report_shows_the_scooter_online(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, presence="lost")
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    await office.ask(asked)
    await is_there(redis, scooter_id, presence="online")
    await office.taking_up.look_around()
    await office.dispatch()
    assert await office.story(ref_of(asked)) == ["queued", "sent"]


async def test_what_waits_and_finds_nobody_waits_again_and_longer_each_time(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    office.publisher.result = Published.NOBODY
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    await office.ask(asked)
    await office.dispatch()
    assert await office.story(ref_of(asked)) == ["sent", "queued"]
    for _ in range(5):
        await office.travel(29.0)
        await office.taking_up.look_around()
        await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 3  # after 30 s, then after 60 s more
    office.publisher.result = Published.TAKEN
    office.dispatcher.came_online(scooter_id)
    await office.dispatch()
    assert (await office.story(ref_of(asked)))[-1] == "sent"


async def test_whoever_is_not_primary_sends_nothing(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    office.is_primary = False
    ref = await sent(office, redis, scooter_id, "unlock")
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref) == ["sent"]


async def test_another_gateway_takes_up_what_is_open_under_the_same_id(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    async with open_office(postgres_url, redis) as one:
        ref = await sent(one, redis, scooter_id, "unlock")
        (before,) = one.publisher.commands(scooter_id)
    async with open_office(postgres_url, redis) as other:
        await other.taking_up.take_up()
        await other.dispatch()
        assert other.publisher.sent == []  # the next is due when the first would have sent it
        await other.travel(7)
        await other.dispatch()
        (after,) = other.publisher.commands(scooter_id)
        assert after.command.request_id == before.command.request_id
        assert after.command.n > before.command.n
        assert after.expiry_s is not None
        assert after.expiry_s <= 13
        assert await other.story(ref) == ["sent", "sent"]


async def test_two_gateways_that_both_think_they_are_primary_send_each_resend_once(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    publisher = FakePublisher()
    async with (
        open_office(postgres_url, redis, publisher=publisher) as one,
        open_office(postgres_url, redis, publisher=publisher) as other,
    ):
        ref = await sent(one, redis, scooter_id, "lock")
        await other.taking_up.take_up()
        await one.travel(16)
        other._traveller.ahead(16)  # noqa: SLF001 - the ledger travelled with the first
        await asyncio.gather(one.dispatch(), other.dispatch())
        assert len(publisher.commands(scooter_id)) == 2
        assert await one.story(ref) == ["sent", "sent"]


async def test_sends_to_one_scooter_take_turns(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id)
    asked = [
        request(scooter_id, "locate"),
        request(scooter_id, "get_state"),
        request(scooter_id, "headlight", params={"on": True}),
        request(scooter_id, "unlock"),
    ]
    for each in asked:
        await office.ask(each)
    run = asyncio.create_task(office.dispatcher.run())

    async def left() -> bool:
        return len(office.publisher.sent) == len(asked)

    try:
        await eventually(left, what="every send")
    finally:
        await end(run)
    names = [each.command.command for each in office.publisher.sent]
    assert names == ["locate", "get_state", "headlight", "unlock"]
    numbers = [each.command.n for each in office.publisher.sent]
    assert numbers == sorted(set(numbers))


async def test_an_uptime_heard_long_ago_only_shortens_the_time(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, uptime_ms=60_000, uptime_at=now_ms() - 30_000)
    asked = request(scooter_id, "unlock")
    await office.ask(asked)
    await office.dispatch()
    exp = office.publisher.commands(scooter_id)[0].command.exp
    assert exp is not None
    assert exp <= 60_000 + 30_000 + 20_000 + 1000
