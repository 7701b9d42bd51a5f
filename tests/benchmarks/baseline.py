"""What one writes first: a plain gateway on aiomqtt, redis-py and asyncpg, a message at a time.

One HSET and one INSERT a message, validated by pydantic; no order, no presence, no settlement.
"""

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import aiomqtt
import asyncpg
from pydantic import BaseModel, Field
from redis.asyncio import Redis

from gateway.settings import Settings

TABLE = """
    CREATE TABLE IF NOT EXISTS baseline_reports (
        scooter_id text NOT NULL, received_at timestamptz NOT NULL, recorded_at timestamptz,
        boot bigint, seq bigint, lat double precision, lon double precision,
        accuracy_m double precision, speed_kmh double precision, heading_deg double precision,
        battery_percent double precision, battery_mv double precision, charging boolean,
        lock text
    )
"""
INSERT = """
    INSERT INTO baseline_reports VALUES
    ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""


class Report(BaseModel):
    """The fields of the contract that the load has, with its bounds."""

    ts: Annotated[int, Field(ge=0, lt=10**14)]
    boot: Annotated[int, Field(ge=0, lt=2**32)]
    seq: Annotated[int, Field(ge=0, lt=2**32)]
    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]
    acc: Annotated[float, Field(ge=0, le=1_000_000)]
    spd: Annotated[float, Field(ge=0, le=200)]
    hdg: Annotated[float, Field(ge=0, le=360)]
    batt: Annotated[float, Field(ge=0, le=100)]
    mv: Annotated[float, Field(ge=0, le=200_000)]
    chg: bool
    lock: Literal["locked", "unlocked", "moving", "jammed"]


async def run_baseline(settings: Settings, *, inserts: bool) -> None:
    """Serve for ever; prints `ready` once it is subscribed."""
    assert settings.postgres_url is not None
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            Redis.from_url(settings.redis_url.get_secret_value())
        )
        # The CPU of the two is compared, not the wait of one for its disk.
        postgres = await asyncpg.connect(
            settings.postgres_url.get_secret_value(),
            server_settings={"synchronous_commit": "off"},
        )
        stack.push_async_callback(postgres.close)
        password = settings.mqtt_password
        client = aiomqtt.Client(
            settings.mqtt_host,
            settings.mqtt_port,
            username=settings.mqtt_username,
            password=password.get_secret_value() if password else None,
            identifier="baseline",
        )
        await stack.enter_async_context(client)
        await client.subscribe("scooters/+/telemetry", qos=1)
        print("ready", flush=True)  # noqa: T201 - the benchmark waits for it
        async for message in client.messages:
            await _keep(message, redis, postgres if inserts else None)


async def _keep(
    message: aiomqtt.Message, redis: Redis, postgres: asyncpg.Connection | None
) -> None:
    scooter_id = message.topic.value.split("/")[1]
    report = Report.model_validate_json(message.payload)
    received_at = datetime.now(UTC)
    state: dict[Any, Any] = report.model_dump() | {
        "chg": str(report.chg).lower(),
        "received_at": int(received_at.timestamp() * 1000),
    }
    await redis.hset(f"scooter:{scooter_id}", mapping=state)
    if postgres is not None:
        await postgres.execute(
            INSERT,
            scooter_id,
            received_at,
            datetime.fromtimestamp(report.ts / 1000, UTC),
            *(report.boot, report.seq, report.lat, report.lon, report.acc, report.spd),
            *(report.hdg, report.batt, report.mv, report.chg, report.lock),
        )
