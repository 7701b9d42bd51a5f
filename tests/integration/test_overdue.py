"""What nobody answered is closed once, also after a restart; telemetry may tell afterwards."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.commands.overdue import GRACE_S
from gateway.errors import ServerAway
from tests.command_office import (
    Office,
    is_there,
    now_ms,
    open_office,
    ref_of,
    request,
    statuses,
)


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis) as office:
        yield office


async def sent(office: Office, redis: Redis, scooter_id: str, command: str = "unlock") -> str:
    await is_there(redis, scooter_id)
    asked = request(scooter_id, command)
    await office.ask(asked)
    await office.dispatch()
    return ref_of(asked)


async def test_silence_ends_in_timed_out_and_only_when_the_time_is_up(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref = await sent(office, redis, scooter_id)
    await office.travel(20 + GRACE_S - 1)
    assert await office.overdue.close() == 0
    await office.travel(1.5)
    assert await office.overdue.close() == 1
    assert await office.overdue.close() == 0
    assert await office.story(ref) == ["sent", "timed_out"]
    assert statuses(await office.reply(), ref) == ["sent", "timed_out"]


async def test_what_waited_too_long_expires(office: Office, redis: Redis, scooter_id: str) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 15}, ttl=30.0)
    await office.ask(asked)
    await office.travel(30.5)
    assert await office.overdue.close() == 1
    office.dispatcher.came_online(scooter_id)
    await is_there(redis, scooter_id)
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref_of(asked)) == ["queued", "expired"]


async def test_what_never_left_expires(office: Office, redis: Redis, scooter_id: str) -> None:
    await is_there(redis, scooter_id)
    office.publisher.result = ServerAway("broker", "not there")
    asked = request(scooter_id, "unlock")
    await office.ask(asked)
    command = office.open.take_due()
    assert command is not None
    await office.dispatcher.send(command)
    await office.travel(24)
    await office.overdue.close()
    assert await office.story(ref_of(asked)) == ["sent", "expired"]


async def test_after_a_restart_it_is_closed_by_the_ledgers_clock(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    async with open_office(postgres_url, redis) as one:
        ref = await sent(one, redis, scooter_id)
        other_ref = await sent(one, redis, f"{scooter_id}x", "lock")
        await one.travel(30)
    async with open_office(postgres_url, redis) as other:
        await other.taking_up.take_up()
        await other.dispatch()
        assert await other.overdue.close() == 1
        assert await other.story(ref) == ["sent", "timed_out"]
        assert other.publisher.commands(scooter_id) == []
        assert await other.story(other_ref) == ["sent", "sent"]


async def test_what_another_gateway_closed_is_forgotten(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    async with (
        open_office(postgres_url, redis) as one,
        open_office(postgres_url, redis) as other,
    ):
        ref = await sent(one, redis, scooter_id)
        await other.taking_up.take_up()
        await other.ack(scooter_id, (await one.row(ref))["request_id"], "success")
        await one.travel(24)
        assert await one.overdue.close() == 0
        assert len(one.open) == 0
        assert await one.story(ref) == ["sent", "succeeded"]
        ref = await sent(one, redis, scooter_id, "lock")
        await other.taking_up.take_up()
        assert len(other.open) == 1
        await one.ack(scooter_id, (await one.row(ref))["request_id"], "success")
        await other.taking_up.take_up()
        assert len(other.open) == 0


@pytest.mark.parametrize(("command", "lock"), [("lock", "locked"), ("unlock", "unlocked")])
async def test_newer_telemetry_of_the_lock_resolves_what_timed_out(
    office: Office, redis: Redis, scooter_id: str, command: str, lock: str
) -> None:
    ref = await sent(office, redis, scooter_id, command)
    await office.travel(64)
    await office.overdue.close()
    assert (await office.story(ref))[-1] == "timed_out"
    await is_there(redis, scooter_id, lock=lock)  # as it was when it was sent: no evidence
    assert await office.overdue.resolve() == 0
    await is_there(redis, scooter_id, lock="moving", lock_order="7:9:0:11")
    assert await office.overdue.resolve() == 0
    await is_there(redis, scooter_id, lock=lock, lock_order="7:10:0:11")
    assert await office.overdue.resolve() == 1
    assert await office.overdue.resolve() == 0
    assert (await office.story(ref))[-1] == "succeeded"
    row = await office.row(ref)
    assert row["detail"].startswith("telemetry")


async def test_a_report_from_before_the_command_is_no_evidence(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """A batch brings old reports, and a Redis that was refilled knows older ones."""
    ref = await sent(office, redis, scooter_id, "unlock")
    await office.travel(24)
    await office.overdue.close()
    before = now_ms() - 600_000
    await is_there(redis, scooter_id, lock="unlocked", lock_order="7:2:0:11", lock_at=before)
    assert await office.overdue.resolve() == 0
    await is_there(redis, scooter_id, lock="unlocked", lock_order="7:2:0:11", lock_at=None)
    assert await office.overdue.resolve() == 0
    assert (await office.story(ref))[-1] == "timed_out"


async def test_what_a_later_command_did_is_no_evidence_for_an_earlier_one(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref = await sent(office, redis, scooter_id, "lock")
    await office.travel(64)
    await office.overdue.close()
    again = await sent(office, redis, scooter_id, "lock")
    await office.ack(scooter_id, (await office.row(again))["request_id"], "success")
    await is_there(redis, scooter_id, lock="locked", lock_order="7:10:0:11")
    assert await office.overdue.resolve() == 0
    assert (await office.story(ref))[-1] == "timed_out"


async def test_a_request_in_doubt_is_disowned_before_it_could_be_sent(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """Refused because the ledger did not answer the commit, which had come through."""
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "unlock")
    await office.ask(asked)
    request_id = (await office.row(ref_of(asked)))["request_id"]
    office.open.forget(request_id)
    office.requests._doubtful[request_id] = None  # noqa: SLF001
    await office.taking_up.take_up()
    await office.travel(8)
    await office.dispatch()
    assert office.publisher.commands(scooter_id) == []
    assert await office.story(ref_of(asked)) == ["sent", "refused"]


@pytest.mark.parametrize("when", ["after", "within"])
async def test_a_commit_that_comes_through_after_the_ledger_is_back_is_disowned_too(
    office: Office, redis: Redis, scooter_id: str, when: str
) -> None:
    """A frozen Postgres had it in hand, and answers others before it goes on with it."""
    await is_there(redis, scooter_id)
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 9})
    await office.ask(asked)
    request_id = (await office.row(ref_of(asked)))["request_id"]
    office.open.forget(request_id)
    office.requests._doubtful[request_id] = None  # noqa: SLF001
    row = "UPDATE commands SET status = $1 WHERE request_id = $2"
    await office.pool.execute(row, "expired", request_id)  # not to be seen yet

    async def disown(connection: asyncpg.Connection) -> frozenset[str]:
        in_doubt = await office.requests.disown(connection)
        if when == "within":
            await connection.execute(row, "sent", request_id)
        return in_doubt

    office.taking_up._disown = disown  # noqa: SLF001
    await office.taking_up.take_up()
    assert len(office.open) == 0
    if when == "after":
        await office.pool.execute(row, "sent", request_id)
    office.taking_up._disown = office.requests.disown  # noqa: SLF001
    await office.taking_up.take_up()
    assert len(office.open) == 0
    assert await office.story(ref_of(asked)) == ["sent", "refused"]
