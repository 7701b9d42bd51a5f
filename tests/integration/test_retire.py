"""Retiring an instance: what its session holds is kept, then the session is gone."""

import time

import orjson
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress, broker_address
from gateway.links.lease import instance_key
from gateway.links.plans import session_plans
from gateway.retire import InstanceAlive, retire
from gateway.settings import Settings
from gateway.telemetry.state_store import LOADED, SCOOTER
from tests.mqtt_session import running, send
from tests.registration import register


@pytest.fixture
async def settings(broker: BrokerAddress, redis_url: str, redis: Redis, fresh_id: str) -> Settings:
    await redis.set(LOADED, "1")
    return Settings(
        _env_file=None,
        instance=fresh_id,
        mqtt_host=broker.host,
        mqtt_port=broker.port,
        mqtt_username=broker.username,
        mqtt_password=SecretStr(broker.password or ""),
        redis_url=SecretStr(redis_url),
        lease_s=1.0,
    )


async def test_a_retired_instance_leaves_nothing_at_the_broker_and_loses_nothing(
    settings: Settings, redis: Redis, scooter_id: str
) -> None:
    plan, broker = session_plans(settings).telemetry, broker_address(settings)
    async with running(broker, plan) as run:
        assert run.session.connected
    reports = [orjson.dumps({"boot": 1, "seq": seq, "batt": 50}) for seq in range(1, 601)]
    await send(broker.host, broker.port, f"scooters/{scooter_id}/telemetry", reports)

    assert await retire(settings) == 600
    assert await redis.hget(f"{SCOOTER}{scooter_id}", "report_order") == b"1:600:0:"

    assert await retire(settings) == 0


async def test_an_instance_that_runs_cannot_be_retired(settings: Settings, redis: Redis) -> None:
    await redis.set(instance_key(settings.instance), "another process", px=60_000)
    began = time.monotonic()

    with pytest.raises(InstanceAlive, match=settings.instance):
        await retire(settings)
    assert time.monotonic() - began < 10


async def test_a_session_that_was_shared_before_brings_each_message_once(
    settings: Settings, scooter_id: str
) -> None:
    broker = broker_address(settings)
    topic = f"scooters/{scooter_id}/telemetry"
    for shared in (False, True, False):
        plan = session_plans(settings.model_copy(update={"mqtt_shared": shared})).telemetry
        async with running(broker, plan) as run:
            await send(broker.host, broker.port, topic, [b"1", b"2", b"3"])
            await run.until(lambda: len(run.payloads) >= 3, "the messages")

            assert run.payloads == [b"1", b"2", b"3"], f"shared: {shared}"


async def test_what_a_retired_instance_held_is_heard_by_standing(
    settings: Settings, redis: Redis, scooter_id: str, fresh_id: str, postgres_url: str
) -> None:
    plan, broker = session_plans(settings).telemetry, broker_address(settings)
    async with running(broker, plan) as run:
        assert run.session.connected
    await register(postgres_url, [scooter_id])
    for each in (scooter_id, fresh_id):
        await send(broker.host, broker.port, f"scooters/{each}/telemetry", [b'{"batt":50}'])

    registered = settings.model_copy(update={"postgres_url": SecretStr(postgres_url)})
    assert await retire(registered) == 2

    assert await redis.exists(f"{SCOOTER}{scooter_id}")
    assert not await redis.exists(f"{SCOOTER}{fresh_id}")


async def test_nothing_is_taken_while_nobody_knows_who_is_heard(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.retire.CONNECT_WITHIN_S", 1.0)
    nowhere = SecretStr("postgres://scooter:x@127.0.0.1:1/none")

    with pytest.raises(ExceptionGroup) as failure:
        await retire(settings.model_copy(update={"postgres_url": nowhere}))

    assert failure.group_contains(ServerAway, match="no copy of the registry")
