"""Both ends of the history for tests: append as the gateway does, and count what is stored."""

import base64
import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import orjson
from redis.asyncio import Redis

from gateway.metrics import Metrics
from gateway.telemetry.history import History, SendReceipts
from gateway.telemetry.state_store import HISTORY, HISTORY_BYTES


class Receipts:
    """Stands in for the downlink and remembers who was told what, in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []

    async def __call__(self, scooter_id: str, event_ids: list[str]) -> None:
        self.sent.append((scooter_id, event_ids))

    @property
    def event_ids(self) -> list[str]:
        return [event_id for _, event_ids in self.sent for event_id in event_ids]


def event(event_id: str, **fields: object) -> dict[str, object]:
    return {"id": event_id, "ev": "fall", **fields}


def reject(reason: str, *, head: bytes = b"?", event_id: str | None = None) -> dict[str, object]:
    return {
        "topic": "scooters/SC-0001/events",
        "reason": reason,
        "head": base64.b64encode(head).decode(),
        "size": len(head),
        "event": event_id,
    }


async def append(
    redis: Redis,
    kind: str,
    body: Mapping[str, object] | bytes,
    *,
    scooter_id: str = "SC-0001",
    at_ms: int | None = None,
    entry_id: str = "*",
) -> None:
    """What `state_store.advance` does for one entry: the stream and the sum of its bytes."""
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    received_ms = str(at_ms if at_ms is not None else int(time.time() * 1000))
    fields: dict[Any, Any] = {"k": kind, "id": scooter_id, "at": received_ms, "b": text}
    async with redis.pipeline(transaction=True) as pipe:
        pipe.xadd(HISTORY, fields, id=entry_id)
        pipe.incrby(HISTORY_BYTES, len(scooter_id) + len(text) + 64)
        await pipe.execute()


async def recount(redis: Redis) -> int:
    """The bytes of what the stream holds."""
    entries: Any = await redis.xrange(HISTORY)
    return sum(len(fields[b"id"]) + len(fields[b"b"]) + 64 for _, fields in entries)


async def counted(redis: Redis) -> int:
    return int(await redis.get(HISTORY_BYTES) or 0)


def history(
    redis: Redis, pool: asyncpg.Pool, receipts: SendReceipts | None = None, *, page: int = 1000
) -> History:
    return History(redis, pool, send_receipts=receipts or Receipts(), metrics=Metrics(), page=page)


async def events(pool: asyncpg.Pool) -> list[str]:
    """The ids of the stored events, in order of their arrival."""
    rows = await pool.fetch("SELECT event_id FROM scooter_events ORDER BY received_at, event_id")
    return [row[0] for row in rows]


async def rejects(pool: asyncpg.Pool) -> dict[str, int]:
    """How often each reason was counted."""
    rows = await pool.fetch("SELECT reason, sum(count)::int FROM rejects GROUP BY reason")
    return dict(rows)
