"""A partition that is attached while its rows are on their way is waited for, like an outage."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
from redis.asyncio import Redis

from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.telemetry.history import drain
from tests.eventually import end, eventually
from tests.history import Receipts, append, event


async def _attach_today(connection: asyncpg.Connection) -> None:
    today = datetime.now(UTC).date()
    await connection.execute(f"""
        LOCK TABLE scooter_events_default IN ACCESS EXCLUSIVE MODE;
        CREATE TABLE scooter_events_today (LIKE scooter_events INCLUDING DEFAULTS);
        ALTER TABLE scooter_events ATTACH PARTITION scooter_events_today
            FOR VALUES FROM ('{today}') TO ('{today + timedelta(days=2)}')
    """)


async def test_an_event_that_meets_the_making_of_its_partition_is_stored_all_the_same(
    redis: Redis, postgres_url: str
) -> None:
    receipts = Receipts()
    async with open_postgres(postgres_url) as pool, pool.acquire() as maker:
        making = maker.transaction()
        await making.start()
        await _attach_today(maker)
        await append(redis, "event", event("1-1"))
        draining = asyncio.create_task(
            drain(redis, pool, send_receipts=receipts, metrics=Metrics())
        )

        async def waits_for_the_lock() -> bool:
            return bool(await maker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits_for_the_lock, what="the event at the default partition")
        await making.commit()

        async def stored() -> bool:
            assert not draining.done() or draining.exception() is None
            rows = await maker.fetch("SELECT event_id FROM scooter_events_today")
            return [row["event_id"] for row in rows] == ["1-1"]

        await eventually(stored, what="the event in its partition")
        await end(draining)
    assert receipts.event_ids == ["1-1"]
