"""What is known of a scooter: its uptime is never taken for later than it is."""

from collections.abc import AsyncIterator
from unittest.mock import ANY

import pytest
from redis.asyncio import Redis

from gateway.commands.facts import NOTHING, Facts, FactsReader
from gateway.commands.open_commands import clock
from gateway.commands.overdue import GRACE_S
from gateway.errors import ServerAway
from gateway.telemetry.state_store import StateStore
from tests.command_office import is_there, now_ms, open_office, ref_of, request
from tests.services import RedisService

NARROW = "narrow"


@pytest.fixture
async def narrow(redis_server: RedisService, redis_admin: Redis) -> AsyncIterator[Redis]:
    """A client whose user may nothing yet."""
    await redis_admin.acl_setuser(NARROW, reset=True, enabled=True, nopass=True)
    _, _, place = redis_server.admin_url.rpartition("@")
    async with Redis.from_url(f"redis://{NARROW}:any@{place}") as client:
        yield client
    await redis_admin.acl_deluser(NARROW)


async def test_a_clock_of_redis_that_was_set_forward_makes_no_uptime_older(
    redis: Redis, scooter_id: str
) -> None:
    ahead_s = 0.0
    facts = FactsReader(redis, now=lambda: clock() - ahead_s)
    await is_there(redis, scooter_id, uptime_ms=60_000)
    await facts.read([])  # as the look around does all the time
    ahead_s = 3600.0  # seen from here, Redis is an hour further
    await redis.hincrby(f"scooter:{scooter_id}", "uptime_at", -3_600_000)
    known = (await facts.read([scooter_id]))[scooter_id].uptime(clock() - ahead_s)
    assert known is not None
    assert known[1] < 60_000 + 30_000
    await is_there(redis, scooter_id, uptime_ms=60_000, uptime_at=now_ms() + 1)
    known = (await facts.read([scooter_id]))[scooter_id].uptime(clock() - ahead_s + 10)
    assert known is not None
    assert known[1] >= 60_000 + 9_000  # what was heard since counts as ever


async def test_gateways_whose_clocks_differ_agree_on_when_an_uptime_was_heard(
    redis: Redis, scooter_id: str
) -> None:
    """The one that heard it is an hour behind the one that sends."""
    states = StateStore(redis, stale_after_s=60.0, history_max_bytes=2**20)
    await redis.set("scooters:loaded", "1")
    entry = {"k": "status", "id": scooter_id, "r": False}
    entry |= {"m": {"s": "online", "boot": 7, "conn": 1, "up": 60_000}}
    await states.advance([entry], received_ms=now_ms() - 3_600_000)
    facts = FactsReader(redis)
    known = (await facts.read([scooter_id]))[scooter_id].uptime(clock())
    assert known is not None
    assert known[0] == 7
    assert 60_000 <= known[1] < 60_000 + 60_000


async def test_of_a_state_that_cannot_be_read_nothing_is_known_and_of_the_others_all(
    redis: Redis, scooter_id: str
) -> None:
    """As where somebody's hand wrote to a scooter's key."""
    other = f"{scooter_id}x"
    await redis.set(f"scooter:{scooter_id}", "foo")
    await is_there(redis, other)
    facts = await FactsReader(redis).read([scooter_id, other])
    assert facts[scooter_id] == NOTHING
    assert facts[other].presence == "online"


@pytest.mark.parametrize("forbidden", ["-hmget", "-time"])
async def test_what_else_redis_refuses_is_no_scooters_fault(
    narrow: Redis, redis_admin: Redis, scooter_id: str, forbidden: str
) -> None:
    facts, may = FactsReader(narrow), ["+time", "+hmget"]
    await redis_admin.acl_setuser(NARROW, enabled=True, commands=may, keys=["scooter:*"])
    assert await facts.read([scooter_id]) == {scooter_id: Facts(read_at=ANY)}
    await redis_admin.acl_setuser(NARROW, enabled=True, commands=[forbidden])
    with pytest.raises(ServerAway):
        await facts.read([scooter_id])


async def test_a_state_that_cannot_be_read_stops_no_command_and_no_look_at_the_fleet(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    other = f"{scooter_id}x"
    wrong, right = request(scooter_id, "lock"), request(other, "lock")
    await is_there(redis, other)
    await redis.set(f"scooter:{scooter_id}", "foo")
    async with open_office(postgres_url, redis) as office:
        await office.ask(wrong, right)
        await office.dispatch()
        assert [await office.story(ref_of(each)) for each in (wrong, right)] == [["sent"]] * 2
        await office.travel(60 + GRACE_S + 1)
        await office.overdue.close()
        await is_there(redis, other, lock_order="7:2:0:11")
        assert await office.overdue.resolve() == 1
        for each in (scooter_id, other):
            await redis.delete(f"scooter:{each}")
            await is_there(redis, each, presence="sleeping")
            waiting = request(each, "set_speed_limit", params={"kmh": 9})
            await office.ask(waiting)
        await is_there(redis, other)
        await redis.delete(f"scooter:{scooter_id}")
        await redis.set(f"scooter:{scooter_id}", "foo")
        await office.taking_up.look_around()
        await office.dispatch()
        assert await office.story(ref_of(waiting)) == ["queued", "sent"]
