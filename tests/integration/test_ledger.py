"""The ledger: moves are compared and set, told once committed, and old commands go."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.contract.commands import CommandStatus
from gateway.commands import ledger
from gateway.commands.ledger_rows import Move
from gateway.commands.lifecycle import NEXT
from gateway.errors import ServerAway
from gateway.links.downlink import TIMEOUT_S, Published
from gateway.storage.postgres import AWAY
from tests.command_office import KEY, Office, is_there, open_office, ref_of, request, statuses

S = CommandStatus
IDLE = "SHOW idle_in_transaction_session_timeout"


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis) as office:
        yield office


async def asked(
    office: Office, redis: Redis, scooter_id: str, command: str = "unlock", login: str = KEY
) -> tuple[str, str]:
    await is_there(redis, scooter_id)
    delivery = request(scooter_id, command, login=login)
    await office.ask(delivery)
    ref = ref_of(delivery)
    return ref, (await office.row(ref))["request_id"]


async def moved(office: Office, *moves: Move) -> list[CommandStatus]:
    async with office.pool.acquire() as connection, connection.transaction():
        return [each.status for each in await ledger.move(connection, moves)]


@pytest.mark.parametrize("current", sorted(S))
async def test_only_the_moves_of_the_table_are_made(
    office: Office, redis: Redis, scooter_id: str, current: CommandStatus
) -> None:
    ref, request_id = await asked(office, redis, scooter_id)
    for to in sorted(S):
        await office.pool.execute(
            "UPDATE commands SET status = $1 WHERE request_id = $2", current, request_id
        )
        made = await moved(office, Move(request_id=request_id, to=to, by="test"))
        legal = to in NEXT.get(current, frozenset())
        assert made == ([to] if legal else [])
        assert (await office.row(ref))["status"] == (to if legal else current)


async def test_a_gateway_that_freezes_in_a_transaction_keeps_its_rows_from_others_for_seconds(
    office: Office, redis: Redis, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TIMEOUT_S < ledger.IDLE_S < 10  # else what waits for its PUBACK is ended too
    await is_there(redis, scooter_id)
    monkeypatch.setattr(ledger, "IDLE_S", 0.5)
    delivery = request(scooter_id)
    async with office.pool.acquire() as frozen:
        block = ledger.transaction(frozen)
        await block.__aenter__()
        await ledger.numbers(frozen, [scooter_id])
        await office.ask(delivery)
        assert (await office.row(ref_of(delivery)))["status"] == S.SENT
        with pytest.raises(AWAY):  # it wakes up
            await block.__aexit__(None, None, None)
    async with office.pool.acquire() as connection:
        usual = await connection.fetchval(IDLE)
        async with ledger.transaction(connection):
            assert await connection.fetchval(IDLE) == "500ms"
        assert await connection.fetchval(IDLE) == usual  # and nobody else's


async def test_a_move_can_depend_on_the_number_of_sends(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    _, request_id = await asked(office, redis, scooter_id)
    move = Move(request_id=request_id, to=S.REFUSED, by="test", if_sends=2)
    assert await moved(office, move) == []


async def test_moves_at_once_are_made_one_after_the_other(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await asked(office, redis, scooter_id)
    results = await asyncio.gather(
        *(
            moved(office, Move(request_id=request_id, to=to, by="test"))
            for to in (S.SUCCEEDED, S.FAILED, S.REJECTED, S.TIMED_OUT) * 2
        )
    )
    story = await office.story(ref)
    made = [status for each in results for status in each]
    assert len(made) == len(story) - 1
    assert story[:1] == ["sent"]
    assert len(story) == 2 or (len(story) == 3 and story[1] == "timed_out")


async def test_nothing_is_told_of_what_was_not_committed(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await asked(office, redis, scooter_id)

    async def fail() -> None:
        async with office.pool.acquire() as connection, connection.transaction():
            move = Move(request_id=request_id, to=S.SUCCEEDED, by="test")
            await ledger.move(connection, [move])
            raise asyncpg.InterfaceError("gone")

    with pytest.raises(asyncpg.InterfaceError):
        await fail()
    assert statuses(await office.reply(), ref) == ["sent"]
    assert await office.story(ref) == ["sent"]


async def test_replies_that_did_not_leave_leave_later_in_their_order(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await asked(office, redis, scooter_id)
    office.publisher.result = ServerAway("broker", "not there")
    with pytest.raises(ServerAway):
        await office.reply()
    await office.ack(scooter_id, request_id, "received")
    await office.ack(scooter_id, request_id, "success")
    office.publisher.result = Published.TAKEN
    assert statuses(await office.reply(), ref) == ["sent", "received", "succeeded"]
    assert await office.pool.fetchval("SELECT count(*) FROM command_replies") == 0


async def test_closed_commands_are_deleted_with_their_moves_when_they_are_old(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    old, old_id = await asked(office, redis, scooter_id, "lock")
    open_one, _ = await asked(office, redis, scooter_id, "locate")
    new, new_id = await asked(office, redis, f"{scooter_id}x", "lock")
    await office.ack(scooter_id, old_id, "success")
    await office.ack(f"{scooter_id}x", new_id, "success")
    await office.pool.execute(
        "UPDATE commands SET received_at = now() - interval '731 days' WHERE ref = ANY ($1)",
        [old, open_one],
    )
    assert await ledger.prune(office.pool, keep_days=730) == 1
    assert await ledger.prune(office.pool, keep_days=730) == 0
    left = {row[0] for row in await office.pool.fetch("SELECT ref FROM commands")}
    assert left == {open_one, new}
    assert await office.story(old) == []
