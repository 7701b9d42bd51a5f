"""A gateway is killed between any two steps: the next carries on, nothing is done twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.commands import ledger
from gateway.links.delivery import Delivery
from gateway.links.downlink import Published
from tests.command_office import (
    FakePublisher,
    FakeRights,
    Office,
    Traveller,
    is_there,
    ref_of,
    request,
    statuses,
)


class Killed(BaseException):
    """The process ends here: nothing that it would still have done happens."""


class Gateways:
    """One after the other on the same servers, for the same scooters and operators."""

    def __init__(self, pool: asyncpg.Pool, redis: Redis) -> None:
        self._pool, self.redis = pool, redis
        self.publisher, self.traveller = FakePublisher(), Traveller()

    async def next(self) -> Office:
        """A fresh process that has taken up what is open."""
        office = Office(
            self._pool,
            self.redis,
            rights=FakeRights(),
            publisher=self.publisher,
            traveller=self.traveller,
        )
        await office.taking_up.take_up()
        return office


@pytest.fixture
async def gateways(postgres_url: str, redis: Redis) -> AsyncIterator[Gateways]:
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=4, timeout=5) as pool:
        yield Gateways(pool, redis)


async def asked(office: Office, scooter_id: str, command: str = "unlock") -> Delivery:
    await is_there(office.redis, scooter_id)
    delivery = request(scooter_id, command)
    await office.ask(delivery)
    return delivery


async def ends_well(
    gateways: Gateways, office: Office, delivery: Delivery, scooter_id: str
) -> None:
    """The scooter answers what it gets, and the operator hears the ledger's story."""
    for _ in range(3):
        await office.dispatch()
        await office.travel(6.7)
    ids = {each.command.request_id for each in gateways.publisher.commands(scooter_id)}
    assert len(ids) == 1
    await office.ack(scooter_id, ids.pop(), "success")
    await office.travel(30)
    await office.overdue.close()
    story = await office.story(ref_of(delivery))
    assert story[-1] == "succeeded"
    told = statuses(await office.reply(), ref_of(delivery))
    assert told[-len(story) :] == story


async def test_killed_before_the_commit_of_a_request(
    gateways: Gateways, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await gateways.next()
    await is_there(one.redis, scooter_id)
    delivery = request(scooter_id)
    record = ledger.record

    async def killed(*arguments: Any) -> None:  # noqa: ANN401
        await record(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "record", killed)
        with pytest.raises(Killed):
            await one.ask(delivery)
    other = await gateways.next()
    assert gateways.publisher.sent == []
    await other.ask(delivery)  # it was not settled, so the broker brings it again
    await ends_well(gateways, other, delivery, scooter_id)


async def test_killed_after_the_commit_and_before_the_settlement(
    gateways: Gateways, scooter_id: str
) -> None:
    delivery = await asked(await gateways.next(), scooter_id)
    other = await gateways.next()
    await other.ask(delivery)
    await ends_well(gateways, other, delivery, scooter_id)


async def test_killed_before_the_publish(gateways: Gateways, scooter_id: str) -> None:
    delivery = await asked(await gateways.next(), scooter_id)
    await ends_well(gateways, await gateways.next(), delivery, scooter_id)


async def test_killed_between_publish_and_puback(gateways: Gateways, scooter_id: str) -> None:
    one = await gateways.next()
    delivery = await asked(one, scooter_id)
    gateways.publisher.result = Killed()
    with pytest.raises(Killed):
        await one.dispatch()
    gateways.publisher.result = Published.TAKEN
    await ends_well(gateways, await gateways.next(), delivery, scooter_id)


async def test_killed_while_a_resend_is_recorded(gateways: Gateways, scooter_id: str) -> None:
    one = await gateways.next()
    delivery = await asked(one, scooter_id)
    await one.dispatch()
    await one.travel(7)
    command = one.open.take_due()
    assert command is not None
    assert await one.dispatcher._record(command)  # noqa: SLF001 - and no further
    await ends_well(gateways, await gateways.next(), delivery, scooter_id)


async def test_killed_before_an_ack_is_recorded(
    gateways: Gateways, scooter_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await gateways.next()
    delivery = await asked(one, scooter_id)
    await one.dispatch()
    request_id = (await one.row(ref_of(delivery)))["request_id"]
    move = ledger.move

    async def killed(*arguments: Any) -> None:  # noqa: ANN401
        await move(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "move", killed)
        with pytest.raises(Killed):
            await one.ack(scooter_id, request_id, "received")
    other = await gateways.next()
    assert await other.story(ref_of(delivery)) == ["sent"]
    await other.ack(scooter_id, request_id, "received")  # the broker brings it again
    assert await other.story(ref_of(delivery)) == ["sent", "received"]
    await ends_well(gateways, other, delivery, scooter_id)


async def test_killed_between_a_reply_and_its_note(gateways: Gateways, scooter_id: str) -> None:
    one = await gateways.next()
    delivery = await asked(one, scooter_id)
    publish = gateways.publisher.publish

    async def killed(*arguments: Any, **members: Any) -> Published:  # noqa: ANN401
        await publish(*arguments, **members)
        raise Killed

    gateways.publisher.publish = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await one.reply()
    gateways.publisher.publish = publish  # type: ignore[method-assign]
    other = await gateways.next()
    replies = statuses(await other.reply(), ref_of(delivery))
    assert replies == ["sent", "sent"]  # twice rather than never
    await ends_well(gateways, other, delivery, scooter_id)


async def test_a_reboot_is_not_sent_again_by_whoever_carries_on(
    gateways: Gateways, scooter_id: str
) -> None:
    """It may have left: once too few is safe, once too many is not."""
    one = await gateways.next()
    delivery = await asked(one, scooter_id, "reboot")
    other = await gateways.next()
    for _ in range(10):
        await other.dispatch()
        await other.travel(7)
    await other.overdue.close()
    assert gateways.publisher.commands(scooter_id) == []
    assert await other.story(ref_of(delivery)) == ["sent", "timed_out"]


async def test_a_ledger_restored_from_yesterday_sends_nothing_of_yesterday(
    gateways: Gateways, scooter_id: str
) -> None:
    one = await gateways.next()
    delivery = await asked(one, scooter_id)
    await one.travel(86_400)
    other = await gateways.next()
    await asyncio.gather(other.dispatch(), other.taking_up.look_around())
    await other.overdue.close()
    assert gateways.publisher.commands(scooter_id) == []
    assert await other.story(ref_of(delivery)) == ["sent", "timed_out"]
    other.publisher.sent.clear()
    await other.ask(delivery)  # nor does the same request, asked again after the restore
    await other.dispatch()
    assert gateways.publisher.commands(scooter_id) == []
