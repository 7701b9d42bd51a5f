"""A gateway hears whom the registry knows: also while Postgres is away, and nobody before."""

import asyncio

from devices.registry import Standing
from gateway.registry_mirror import HEAD
from tests.e2e.system import System
from tests.eventually import eventually
from tests.fleet import EventSender
from tests.gateway_process import GatewayProcess
from tests.load import publish
from tests.registration import register
from tests.wire import Message

KNOWN, STRANGER = "SC-0001", "SC-0002"


async def _rejects(gateway: GatewayProcess, why: str) -> int:
    page = await gateway.metrics()
    return int(page.value("rejects_total", reason=why))


async def _hears(system: System, scooter_id: str, seq: int) -> None:
    """A report of this scooter, repeated until the gateway knows it, becomes its state."""
    payload = b'{"boot":1,"seq":%d,"odo":%d}' % (seq, seq)

    async def probe() -> bool:
        await publish(system.mqtt_port, Message(f"scooters/{scooter_id}/telemetry", payload))
        return await system.laps([scooter_id]) == [seq]

    await eventually(probe, within_s=30, what=f"report {seq} of {scooter_id}")


async def test_a_gateway_that_starts_without_postgres_knows_what_redis_has(system: System) -> None:
    await system.register(KNOWN)
    gateway = await (await system.gateway()).ready()
    await _hears(system, KNOWN, 1)

    async def mirrored() -> bool:
        return bool(await system.redis.exists(HEAD))

    await eventually(mirrored, what="the copy in Redis")
    await gateway.kill()
    await asyncio.to_thread(system.servers.postgres.kill)

    await (await gateway.start()).ready()
    await _hears(system, KNOWN, 2)
    stranger = Message(f"scooters/{STRANGER}/telemetry", b'{"batt":5}')
    await publish(system.mqtt_port, stranger)

    async def rejected() -> bool:
        return await _rejects(gateway, "unknown") == 1

    await eventually(rejected, within_s=30, what="the reject of a stranger")


async def test_with_neither_nothing_is_settled_and_everything_heard_once_it_is_known(
    system: System,
) -> None:
    await system.register(KNOWN)
    await asyncio.to_thread(system.servers.postgres.stop)
    events = EventSender(system.mqtt_port, resend_s=60.0)
    async with events.running():
        gateway = await system.gateway()

        async def waits() -> bool:
            problems = await gateway.problems()
            return problems is not None and set(problems) == {"registry"}

        await eventually(waits, within_s=30, what="a gateway that only the registry keeps")
        events.happen(KNOWN, "1-1")

        async def held() -> bool:
            return (await gateway.metrics()).in_flight > 0

        await eventually(held, within_s=30, what="an event that is held")
        assert await _rejects(gateway, "unknown") == 0
        await asyncio.to_thread(system.servers.postgres.start)

        async def receipted() -> bool:
            return (KNOWN, "1-1") in events.receipted

        await eventually(receipted, within_s=60, what="a receipt")
    await gateway.ready()
    stored = await system.ask("SELECT event_id FROM scooter_events")
    assert [row["event_id"] for row in stored] == ["1-1"]


async def test_a_suspended_scooter_is_not_heard_from_then_on_until_it_is_resumed(
    system: System,
) -> None:
    await system.register(KNOWN)
    gateway = await (await system.gateway()).ready()
    await _hears(system, KNOWN, 1)

    await register(system.servers.postgres_url, [KNOWN], standing=Standing.SUSPENDED)

    async def suspended() -> bool:
        payload = b'{"boot":1,"seq":9,"odo":9}'
        await publish(system.mqtt_port, Message(f"scooters/{KNOWN}/telemetry", payload))
        return await _rejects(gateway, "suspended") > 0

    await register(system.servers.postgres_url, ["SC-0003"])
    await _hears(system, "SC-0003", 1)  # by then the gateway knows both changes
    await eventually(suspended, within_s=30, what="a reject")
    assert await system.laps([KNOWN]) == [1]

    await register(system.servers.postgres_url, [KNOWN, "SC-0004"])
    await _hears(system, "SC-0004", 1)
    await _hears(system, KNOWN, 10)
