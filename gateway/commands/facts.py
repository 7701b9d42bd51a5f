"""What is known of a scooter when a command is judged or sent: a few fields of its state."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from devices.contract.commands import UPTIME_MAX_MS
from gateway.telemetry.state_store import SCOOTER, redis_translated

_FIELDS: Final = (
    "presence",
    "battery_percent",
    "lock",
    "lock_order",
    "boot",
    "uptime_boot",
    "uptime_ms",
    "uptime_at",
)
_CHUNK: Final = 500

AWAY: Final = frozenset({"sleeping", "offline", "lost"})
"""Presences of a scooter that hears nothing now."""


@dataclass(frozen=True, slots=True)
class Facts:
    """None for what is not known. `uptime_at` is ms by our clock."""

    presence: str | None = None
    battery_percent: float | None = None
    lock: str | None = None
    lock_order: str | None = None
    boot: int | None = None
    uptime_boot: int | None = None
    uptime_ms: int | None = None
    uptime_at: int | None = None

    @property
    def is_away(self) -> bool:
        return self.presence in AWAY

    def uptime(self, now_ms: int) -> tuple[int, int] | None:
        """The current boot and its uptime in ms, at most what it truly is: (boot, up).

        None where the scooter never told it, not for its current boot, or a number that is not
        believed. The way up takes time, so the true uptime is later, and a deadline counted from
        this one is earlier.
        """
        if self.uptime_boot is None or self.uptime_ms is None or self.uptime_at is None:
            return None
        if self.boot is not None and self.boot != self.uptime_boot:
            return None
        up = self.uptime_ms + max(0, now_ms - self.uptime_at)
        return (self.uptime_boot, up) if up < UPTIME_MAX_MS else None


NOTHING: Final = Facts()


class FactsReader:
    """Reads them from the states in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, scooter_ids: Iterable[str]) -> dict[str, Facts]:
        """Of each scooter; raises ServerAway."""
        ids = list(dict.fromkeys(scooter_ids))
        found: dict[str, Facts] = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            with redis_translated():
                async with self._redis.pipeline(transaction=False) as pipe:
                    for scooter_id in chunk:
                        pipe.hmget(f"{SCOOTER}{scooter_id}", _FIELDS)
                    rows: list[Any] = await pipe.execute()
            found |= {each: _facts(row) for each, row in zip(chunk, rows, strict=True)}
        return found


def _facts(row: list[bytes | None]) -> Facts:
    texts = [None if each is None else each.decode(errors="replace") for each in row]
    presence, battery, lock, lock_order, *numbers = texts
    return Facts(presence, _number(battery), lock, lock_order, *map(_integer, numbers))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # somebody else's hand
        return None


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
