"""What is known of a scooter: its uptime is never taken for later than it is."""

from redis.asyncio import Redis

from gateway.commands.facts import FactsReader
from gateway.commands.open_commands import clock
from gateway.telemetry.state_store import StateStore
from tests.command_office import is_there, now_ms


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
