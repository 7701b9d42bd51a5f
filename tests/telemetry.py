"""What scooters send, as deliveries for tests of journey 1, and a plain way to advance states."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from devices.contract import topics
from devices.contract.topics import Uplink
from gateway.links.delivery import Delivery
from gateway.telemetry.entries import Entry, entry_of
from gateway.telemetry.state_store import LOADED, Advanced, StateStore

NOW_MS = 1_795_435_200_000  # 2026-11-23T12:00Z
STALE_AFTER_S = 180.0
HISTORY_MAX = 1 << 20

FULL_REPORT = {
    "ts": NOW_MS - 500,
    "boot": 12,
    "seq": 481,
    "up": 86_400_123,
    "ivl": 5,
    "lat": 52.5200081,
    "lon": -13.4049541,
    "acc": 4.5,
    "spd": 18.3,
    "hdg": 271,
    "batt": 87,
    "mv": 40_700,
    "rng": 21_750,
    "chg": False,
    "bid": "B204817",
    "lock": "unlocked",
    "tip": True,
    "odo": 999_999_999.5,
    "sig": -71,
    "fw": "2.4.1",
}
"""Every field that a report may have."""


def delivery(scooter_id: str, uplink: Uplink, message: object, *, retain: bool = False) -> Delivery:
    """A message as JSON; bytes are taken as they are."""
    payload = message if isinstance(message, bytes) else orjson.dumps(message)
    return Delivery(topics.uplink(scooter_id, uplink), payload, retain=retain)


def telemetry(scooter_id: str, **fields: object) -> Delivery:
    return delivery(scooter_id, Uplink.TELEMETRY, fields)


def batch(scooter_id: str, *samples: Mapping[str, object]) -> Delivery:
    return delivery(scooter_id, Uplink.TELEMETRY_BATCH, samples)


def event(scooter_id: str, event_id: str, **fields: object) -> Delivery:
    return delivery(scooter_id, Uplink.EVENTS, {"id": event_id, "ev": "fall", **fields})


def ack(scooter_id: str, **fields: object) -> Delivery:
    message = {"request_id": "00ff", "status": "success", **fields}
    return delivery(scooter_id, Uplink.ACKS, message)


def status(scooter_id: str, s: str, *, retain: bool = False, **fields: object) -> Delivery:
    return delivery(scooter_id, Uplink.STATUS, {"s": s, **fields}, retain=retain)


class Fleet:
    """A state store with a clock that the test moves, and a look into its Redis."""

    def __init__(self, redis: Redis, *, history_max: int = HISTORY_MAX) -> None:
        self.redis = redis
        self.now_ms = NOW_MS
        self.states = StateStore(redis, stale_after_s=STALE_AFTER_S, history_max_bytes=history_max)

    async def load(self) -> None:
        await self.redis.set(LOADED, 1)

    async def advance(self, entries: Sequence[Entry]) -> Advanced:
        return await self.states.advance(entries, received_ms=self.now_ms)

    async def take(self, *deliveries: Delivery) -> list[str]:
        """Advance by all of them in one call; their outcomes."""
        entries = [entry_of(each) for each in deliveries]
        return (await self.advance(entries)).outcomes

    async def after(self, seconds: float, *deliveries: Delivery) -> list[str]:
        """Move the clock, then advance."""
        self.now_ms += int(seconds * 1000)
        return await self.take(*deliveries)

    async def sweep_after(self, seconds: float) -> list[str]:
        self.now_ms += int(seconds * 1000)
        return await self.states.sweep(now_ms=self.now_ms, at_most=100)

    async def state(self, scooter_id: str) -> dict[str, str]:
        return await self.states.read(scooter_id) or {}

    async def everything(self, scooter_id: str) -> dict[str, Any]:
        """All that a report of this scooter may change."""
        key = f"scooter:{scooter_id}"
        return {
            "hash": await self.redis.hgetall(key),
            "last_seen": await self.redis.zscore("scooters:last_seen", scooter_id),
            "dirty": await self.redis.zscore("scooters:dirty", scooter_id),
            "deadline": await self.redis.zscore("scooters:deadlines", scooter_id),
            "position": await self.redis.geopos("scooters:position", scooter_id),
        }

    async def history(self) -> list[tuple[str, str, Any]]:
        """Kind, scooter and body of what the history holds, in order."""
        entries: Any = await self.redis.xrange("scooters:history")
        return [
            (fields[b"k"].decode(), fields[b"id"].decode(), orjson.loads(fields[b"b"]))
            for _, fields in entries
        ]
