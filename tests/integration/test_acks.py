"""Acks on a real ledger: each moves its command once, foreign ones change nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from devices.contract import topics
from devices.contract.commands import CommandStatus
from devices.contract.topics import Uplink
from gateway.commands import ledger
from gateway.commands.acks import RECORD_WITHIN_S, AckedStates
from gateway.commands.acks_stream import ACKS, AcksStream, ScooterAck
from gateway.commands.ledger_rows import Move
from gateway.errors import ServerAway
from gateway.links.delivery import Delivery
from gateway.local.servers import Servers
from gateway.storage.migrate import migrate
from gateway.telemetry.entries import entry_of
from gateway.telemetry.state_store import LOADED, StateStore
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


async def sent(
    office: Office, redis: Redis, scooter_id: str, command: str = "unlock"
) -> tuple[str, str]:
    """A command that left once; returns its ref and request_id."""
    await is_there(redis, scooter_id)
    asked = request(scooter_id, command)
    await office.ask(asked)
    await office.dispatch()
    return ref_of(asked), (await office.row(ref_of(asked)))["request_id"]


@pytest.mark.parametrize(
    "case",
    [
        ("success", None, "succeeded"),
        ("error", "jammed", "failed"),
        ("rejected", "busy", "rejected"),
    ],
)
async def test_the_result_ends_the_command_with_its_evidence(
    office: Office, redis: Redis, scooter_id: str, case: tuple[str, str | None, str]
) -> None:
    answer, error, end = case
    ref, request_id = await sent(office, redis, scooter_id)
    await office.ack(scooter_id, request_id, "received", boot=7, seq=5)
    await office.ack(scooter_id, request_id, answer, **({"error": error} if error else {}))
    assert await office.story(ref) == ["sent", "received", end]
    replies = await office.reply()
    assert statuses(replies, ref) == ["sent", "received", end]
    assert replies[-1].get("detail") == error
    by, evidence = await office.pool.fetchrow(
        "SELECT done_by, evidence FROM command_moves WHERE status = 'received'"
    )
    assert by == f"scooter:{scooter_id}"
    assert '"boot": 7' in evidence
    assert len(office.open) == 0
    assert office.metrics.value("gateway_command_result_seconds_count") == 1


async def test_acks_that_come_again_or_late_change_nothing_and_are_counted(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id)
    for status in ("success", "received", "success", "error", "rejected"):
        assert await office.ack(scooter_id, request_id, status)
    assert await office.story(ref) == ["sent", "succeeded"]
    assert office.metrics.value("gateway_acks_without_effect_total") == 4


async def test_a_result_may_come_without_received_or_with_it_in_the_same_batch(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id)
    await office.acks.record(
        [
            ScooterAck(scooter_id, request_id, {"status": "received"}),
            ScooterAck(scooter_id, request_id, {"status": "success"}),
        ]
    )
    assert await office.story(ref) == ["sent", "received", "succeeded"]


async def test_after_an_answer_it_is_not_sent_again(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id)
    await office.ack(scooter_id, request_id, "received")
    for _ in range(30):
        await office.travel(0.5)
        await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 1
    assert await office.story(ref) == ["sent", "received"]


async def test_an_ack_for_anothers_or_an_unknown_command_is_foreign(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id)
    assert not await office.ack(f"{scooter_id}x", request_id, "success")
    assert not await office.ack(scooter_id, "0" * 16, "success")
    assert not await office.ack(scooter_id, request_id.upper(), "success") or request_id.isdigit()
    assert await office.story(ref) == ["sent"]


async def test_what_waits_cannot_have_been_answered(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await is_there(redis, scooter_id, presence="sleeping")
    asked = request(scooter_id, "set_speed_limit", params={"kmh": 15})
    await office.ask(asked)
    request_id = (await office.row(ref_of(asked)))["request_id"]
    assert not await office.ack(scooter_id, request_id, "success")
    assert await office.story(ref_of(asked)) == ["queued"]


async def test_a_lock_that_moves_is_tried_again_until_it_stands(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id, "lock")
    for _ in range(6):  # more often than it has resends
        await office.ack(scooter_id, request_id, "rejected", error="moving")
        await office.travel(5.1)
        await office.dispatch()
    assert len(office.publisher.commands(scooter_id)) == 7
    await office.ack(scooter_id, request_id, "success")
    assert (await office.story(ref))[-1] == "succeeded"


async def test_a_rejection_that_comes_again_before_the_next_try_changes_nothing(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id, "lock")
    for _ in range(3):
        await office.ack(scooter_id, request_id, "rejected", error="moving")
        await office.travel(2.0)
    assert await office.story(ref) == ["sent", "sent"]
    assert office.metrics.value("gateway_acks_without_effect_total") == 2
    await office.dispatch()  # five seconds after the first rejection
    assert await office.story(ref) == ["sent", "sent", "sent"]


async def test_a_lock_that_moves_to_the_end_is_rejected(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id, "lock")
    await office.travel(57)
    await office.ack(scooter_id, request_id, "rejected", error="moving")
    await office.travel(7)
    await office.dispatch()
    await office.overdue.close()
    assert await office.story(ref) == ["sent", "sent", "rejected"]
    assert (await office.row(ref))["detail"].startswith("moving")


async def test_a_late_ack_resolves_what_timed_out_once(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ref, request_id = await sent(office, redis, scooter_id)
    await office.travel(24)
    await office.overdue.close()
    await office.ack(scooter_id, request_id, "received")
    await office.ack(scooter_id, request_id, "success")
    await office.ack(scooter_id, request_id, "error")
    assert await office.story(ref) == ["sent", "timed_out", "succeeded"]
    assert statuses(await office.reply(), ref) == ["sent", "timed_out", "succeeded"]


def ack_delivery(scooter_id: str, body: bytes) -> Delivery:
    return Delivery(topics.uplink(scooter_id, Uplink.ACKS), body)


async def test_the_answer_to_a_retained_copy_is_counted_and_moves_nothing(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """Nobody sends such: whoever did shall not end the real command either."""
    await redis.set(LOADED, "1")
    states = StateStore(redis, stale_after_s=60, history_max_bytes=2**20)
    acked = AckedStates(states, office.acks, births=lambda _: None)
    ref, request_id = await sent(office, redis, scooter_id)
    bodies = [
        b'{"request_id":"%b","status":"rejected","error":"retained"}' % each.encode()
        for each in (request_id, "0" * 16)
    ]
    entries = [entry_of(ack_delivery(scooter_id, each)) for each in bodies]
    await acked.advance(entries, received_ms=now_ms())
    assert await office.story(ref) == ["sent"]
    assert office.metrics.value("gateway_commands_retained_total") == 2


async def test_an_ack_moves_the_state_and_a_foreign_one_does_not(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    await redis.set(LOADED, "1")
    states = StateStore(redis, stale_after_s=60, history_max_bytes=2**20)
    births: list[str] = []
    acked = AckedStates(states, office.acks, births=births.append)
    asked = request(scooter_id, "lock")
    await office.ask(asked)
    await office.dispatch()
    request_id = (await office.row(ref_of(asked)))["request_id"]
    body = b'{"request_id":"%s","status":"success","boot":1,"seq":%d,"lock":"%s"}'
    foreign = f"{scooter_id}x"
    deliveries = [
        ack_delivery(foreign, body % (request_id.encode(), 1, b"unlocked")),
        ack_delivery(scooter_id, body % (request_id.encode(), 1, b"locked")),
        Delivery(topics.uplink(scooter_id, Uplink.STATUS), b'{"s":"online","boot":1,"conn":2}'),
    ]
    entries = [entry_of(each) for each in deliveries]
    advanced = await acked.advance(entries, received_ms=now_ms())
    assert advanced.outcomes == ["rejected", "ack", "presence"]
    assert [each.get("w") for each in entries] == ["ack", None, None]
    assert await office.story(ref_of(asked)) == ["sent", "succeeded"]
    assert (await states.read(scooter_id) or {})["lock"] == "locked"
    assert await states.read(foreign) is None
    assert births == [scooter_id]
    assert office.metrics.value("gateway_acks_foreign_total") == 1


async def test_while_postgres_is_away_acks_wait_in_redis(
    own_postgres: Servers, redis: Redis, scooter_id: str
) -> None:
    await migrate(own_postgres.postgres_url)
    async with open_office(own_postgres.postgres_url, redis) as office:
        ref, request_id = await sent(office, redis, scooter_id)
        own_postgres.postgres.kill()
        assert await office.ack(scooter_id, request_id, "received")
        assert await office.ack(scooter_id, request_id, "success")
        assert await office.ack(f"{scooter_id}x", "f" * 16, "success")  # nobody can tell now
        assert await redis.xlen(ACKS) == 3
        own_postgres.postgres.start()
        while await office.acks.drain():
            pass
        assert await office.story(ref) == ["sent", "received", "succeeded"]
        assert await redis.xlen(ACKS) == 0
        assert office.metrics.value("gateway_acks_foreign_total") == 1


async def test_without_postgres_and_redis_an_ack_is_not_taken(
    own_servers: Servers, scooter_id: str
) -> None:
    await migrate(own_servers.postgres_url)
    async with (
        Redis.from_url(own_servers.redis_url, socket_timeout=1) as redis,
        open_office(own_servers.postgres_url, redis) as office,
    ):
        _, request_id = await sent(office, redis, scooter_id)
        own_servers.postgres.kill()
        own_servers.redis.kill()
        with pytest.raises(ServerAway):
            await office.ack(scooter_id, request_id, "success")


async def test_two_gateways_record_an_ack_once(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    async with (
        open_office(postgres_url, redis) as one,
        open_office(postgres_url, redis) as other,
    ):
        ref, request_id = await sent(one, redis, scooter_id)
        await asyncio.gather(
            *(each.ack(scooter_id, request_id, "success") for each in (one, other) * 4)
        )
        assert await one.story(ref) == ["sent", CommandStatus.SUCCEEDED]


async def test_the_stream_keeps_what_an_ack_said(redis: Redis, scooter_id: str) -> None:
    stream = AcksStream(redis)
    ack = ScooterAck(scooter_id, "0" * 16, {"status": "error", "error": "jammed"})
    await stream.append([ack])
    ((entry_id, kept),) = await stream.read()
    assert kept == ack
    await stream.remove([entry_id])
    assert await stream.read() == []


async def test_while_the_ledger_hangs_one_batch_waits_for_it_and_the_next_do_not(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    """Statuses come in the same session: presence must not wait for each batch of acks."""
    ref, request_id = await sent(office, redis, scooter_id)
    async with office.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE commands")
        began = asyncio.get_running_loop().time()
        for status in ("received", "success"):
            office.open.forget(request_id)
            assert await office.ack(scooter_id, request_id, status)
        assert asyncio.get_running_loop().time() - began < 2 * RECORD_WITHIN_S
        assert await redis.xlen(ACKS) == 2
    while await office.acks.drain():
        pass
    assert await office.story(ref) == ["sent", "received", "succeeded"]


async def test_two_that_move_the_same_commands_do_not_wait_for_each_other(
    office: Office, redis: Redis, scooter_id: str
) -> None:
    ids = []
    for letter in "abcdef":
        _, request_id = await sent(office, redis, f"{scooter_id}{letter}", "lock")
        ids.append(request_id)

    async def move(order: list[str]) -> None:
        for _ in range(40):
            async with office.pool.acquire() as connection, connection.transaction():
                moves = [Move(request_id=each, to=CommandStatus.SENT, by="t") for each in order]
                await ledger.move(connection, moves)

    await asyncio.gather(move(ids), move(ids[::-1]), move(ids[3:] + ids[:3]))
    assert (await office.pool.fetchval("SELECT min(moves) FROM commands")) == 121
