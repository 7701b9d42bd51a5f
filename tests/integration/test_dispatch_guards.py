"""What keeps a send from leaving: looked at again in the last moment, and where much changed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from devices.contract.commands import COMMANDS
from devices.standing import Standing
from gateway.commands import taking_up
from gateway.commands.dispatch import STALE_S
from gateway.commands.open_commands import OpenCommand
from gateway.errors import ServerAway
from gateway.links.downlink import Published
from tests.command_office import (
    KEY,
    FakePublisher,
    Office,
    is_there,
    open_office,
    ref_of,
    request,
    statuses,
)

FORBIDDEN = {
    "key": "no_right",
    "right": "no_right",
    "retired": "unknown_scooter",
    "suspended": "not_active",
}
"""The word that says why, by what changed since."""


@dataclass
class Meanwhile(FakePublisher):
    """Something happens between the first look at a command and its publish."""

    happens: Callable[[], object] = lambda: None

    @property
    def connected(self) -> bool:
        self.happens()
        return super().connected


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis, publisher=Meanwhile()) as office:
        yield office


def meanwhile(office: Office, happens: Callable[[], object]) -> None:
    assert isinstance(office.publisher, Meanwhile)
    office.publisher.happens = happens


def forbid(office: Office, scooter_id: str, why: str) -> None:
    if why == "key":
        office.rights.keys.pop(KEY, None)
    elif why == "right":
        office.rights.forbidden |= {(KEY, name) for name in COMMANDS}
    else:
        office.rights.standings[scooter_id] = Standing(why)


async def asked(office: Office, redis: Redis, scooter_id: str, *what: Any, **more: Any) -> str:  # noqa: ANN401
    await is_there(redis, scooter_id)
    wish = request(scooter_id, *what, **more)
    await office.ask(wish)
    return ref_of(wish)


async def due_without_broker(
    office: Office, redis: Redis, scooter_id: str
) -> tuple[str, OpenCommand]:
    """A setting that would leave now, and its ref."""
    office.publisher.result = ServerAway("broker", "not there")
    ref = await asked(office, redis, scooter_id, "set_speed_limit", params={"kmh": 9})
    command = office.open.take_due()
    assert command is not None
    return ref, command


@pytest.mark.parametrize("how", ["closed", "out of time", "not primary", "answered"])
async def test_what_changed_since_it_was_due_is_seen_before_it_leaves(
    office: Office, redis: Redis, scooter_id: str, how: str
) -> None:
    ref = await asked(office, redis, scooter_id)
    (command,) = list(office.open)

    def answer() -> None:
        command.status = type(command.status).RECEIVED

    def demote() -> None:
        office.is_primary = False

    happenings: dict[str, Callable[[], object]] = {
        "closed": lambda: office.open.forget(command.request_id),
        "out of time": lambda: office._traveller.ahead(19.1),  # noqa: SLF001
        "not primary": demote,
        "answered": answer,
    }
    meanwhile(office, happenings[how])
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref) == ["sent"]


async def test_what_was_closed_while_it_waited_for_its_turn_is_not_sent(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await asked(office, redis, scooter_id)
    command = office.open.take_due()
    assert command is not None
    office.open.forget(command.request_id)
    await office.dispatcher.send(command)
    assert office.publisher.commands(scooter_id) == []


async def test_no_send_is_recorded_in_the_last_second(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref = await asked(office, redis, scooter_id)
    await office.dispatch()
    await office.travel(19.2)
    await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 1
    assert (await office.row(ref))["sends"] == 1


async def test_the_broker_is_told_whole_seconds_of_what_is_left_and_never_none(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """An expiry of 0 would be no expiry."""
    await asked(office, redis, scooter_id)
    (command,) = list(office.open)
    command.deadline = office.open.now() + 1.9
    await office.dispatch()
    assert [each.expiry_s for each in office.publisher.commands(scooter_id)] == [1]


@pytest.mark.parametrize("why", FORBIDDEN)
async def test_what_waits_is_refused_when_it_is_forbidden_by_the_time_it_could_leave(
    office: Office, redis: Redis, scooter_id: str, why: str
) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    wish = request(scooter_id, "set_speed_limit", params={"kmh": 9})
    await office.ask(wish)
    forbid(office, scooter_id, why)
    await is_there(redis, scooter_id)
    office.dispatcher.came_online(scooter_id)
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref_of(wish)) == ["queued", "refused"]
    assert (await office.row(ref_of(wish)))["detail"].startswith(FORBIDDEN[why])
    assert len(office.open) == 0


@pytest.mark.parametrize("when", ["while the downlink was away", "in the last moment"])
@pytest.mark.parametrize("why", FORBIDDEN)
async def test_a_first_send_that_is_forbidden_by_the_time_it_could_leave_is_refused(
    office: Office, redis: Redis, scooter_id: str, why: str, when: str
) -> None:
    """It was recorded with its request, and nobody else had it."""
    ref = await asked(office, redis, scooter_id)
    if when == "in the last moment":
        meanwhile(office, lambda: forbid(office, scooter_id, why))
    else:
        office.publisher.result = ServerAway("broker", "not there")
        command = office.open.take_due()
        assert command is not None
        await office.dispatcher.send(command)
        await office.travel(10)
        forbid(office, scooter_id, why)
        office.publisher.result = Published.TAKEN
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref) == ["sent", "refused"]
    assert (await office.row(ref))["detail"].startswith(FORBIDDEN[why])
    await office.travel(24)
    assert await office.overdue.close() == 0
    assert statuses(await office.reply(), ref) == ["sent", "refused"]


async def test_what_would_be_recorded_anew_but_is_forbidden_and_never_left_is_refused(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, command = await due_without_broker(office, redis, scooter_id)
    await office.dispatcher.send(command)
    await office.travel(STALE_S + 1)
    forbid(office, scooter_id, "key")
    office.publisher.result = Published.TAKEN
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref) == ["sent", "refused"]


async def test_a_resend_that_is_forbidden_while_it_is_recorded_does_not_leave(
    office: Office, redis: Redis, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may have been carried out, so nobody knows how it ended."""
    ref = await asked(office, redis, scooter_id)
    await office.dispatch()

    def suspended_meanwhile(_: str) -> int:
        forbid(office, scooter_id, "suspended")
        return 1

    monkeypatch.setattr(office.rights, "generation", suspended_meanwhile)
    for _ in range(24):
        await office.travel(1)
        await office.dispatch()
    await office.overdue.close()
    assert len(office.publisher.commands(scooter_id)) == 1
    assert await office.story(ref) == ["sent", "sent", "timed_out"]


async def test_an_unlock_is_not_sent_again_to_a_scooter_that_was_suspended_since(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref = await asked(office, redis, scooter_id)
    await office.dispatch()
    office.rights.standings[scooter_id] = Standing.SUSPENDED
    await office.travel(7)
    await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 1
    await office.travel(20)
    await office.overdue.close()
    assert await office.story(ref) == ["sent", "timed_out"]  # nobody knows of the first


async def test_what_waits_for_the_broker_leaves_for_the_boot_that_is_current_then(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, command = await due_without_broker(office, redis, scooter_id)
    for _ in range(3):
        await office.travel(taking_up.PERIOD_S)
        await office.dispatcher.send(command)
    assert await office.story(ref) == ["sent"]  # nothing is recorded that cannot leave
    await office.travel(20)
    await is_there(redis, scooter_id, boot=8, uptime_boot=8, uptime_ms=500)
    office.publisher.result = Published.TAKEN
    await office.dispatch()
    (only,) = office.publisher.commands(scooter_id)
    assert only.command.boot == 8


@pytest.mark.parametrize("behind_s", [15, 3600])
async def test_a_ledger_whose_clock_falls_behind_makes_no_more_time_for_an_unlock(
    postgres_url: str, redis: Redis, scooter_id: str, behind_s: int
) -> None:
    """As when a standby with another clock takes over: what is taken up counts by it."""
    async with open_office(postgres_url, redis) as one:
        await asked(one, redis, scooter_id)
        await one.dispatch()
        (first,) = one.publisher.commands(scooter_id)
    async with open_office(postgres_url, redis) as other:
        await other.pool.execute(
            "UPDATE commands SET expires_at = expires_at + $1 * interval '1 second'", behind_s
        )
        await other.taking_up.take_up()
        await is_there(redis, scooter_id, uptime_ms=67_000)  # seven seconds passed
        (command,) = list(other.open)
        other.open.schedule(command, other.open.now())
        await other.dispatch()
        (second,) = other.publisher.commands(scooter_id)
    assert second.expiry_s is not None
    assert second.expiry_s <= 20
    assert second.command.exp == first.command.exp


async def test_a_round_looks_at_some_scooters_and_every_one_has_its_turn(
    office: Office, redis: Redis, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_up, "LOOKED_AT", 2)
    ids = [f"{scooter_id}{letter}" for letter in "abc"]
    for each in ids:
        await is_there(redis, each, presence="sleeping")
        await office.ask(request(each, "set_speed_limit", params={"kmh": 9}))
        await is_there(redis, each)
    await office.taking_up.look_around()
    await office.dispatch()
    assert [len(office.publisher.commands(each)) for each in ids] == [1, 1, 0]
    await office.taking_up.look_around()
    await office.dispatch()
    assert [len(office.publisher.commands(each)) for each in ids] == [1, 1, 1]
    waiting = f"{scooter_id}d"  # and then it begins anew
    await is_there(redis, waiting, presence="sleeping")
    await office.ask(request(waiting, "set_speed_limit", params={"kmh": 9}))
    await is_there(redis, waiting)
    for _ in range(2):
        await office.taking_up.look_around()
    await office.dispatch()
    assert len(office.publisher.commands(waiting)) == 1


async def test_everything_open_is_taken_up_in_portions_and_in_order(
    postgres_url: str, redis: Redis, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_up, "_AT_ONCE", 2)
    async with open_office(postgres_url, redis) as one:
        ids = [f"{scooter_id}{letter}" for letter in "abcde"]
        for each in reversed(ids):
            await asked(one, redis, each, "lock")
    async with open_office(postgres_url, redis) as other:
        await other.taking_up.take_up()
        assert [each.scooter_id for each in other.open] == ids[::-1]
        await asyncio.gather(*(other.taking_up.take_up() for _ in range(3)))
        assert len(other.open) == 5
