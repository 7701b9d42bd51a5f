"""What is known of a scooter when a command is judged or sent: a few fields of its state."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from devices.contract.commands import UPTIME_MAX_MS
from gateway.commands.clock_steps import ForwardSteps
from gateway.commands.open_commands import clock
from gateway.telemetry.state_store import SCOOTER, redis_translated

_FIELDS: Final = (
    "presence",
    "battery_percent",
    "lock",
    "lock_order",
    "lock_at",
    "boot",
    "uptime_boot",
    "uptime_ms",
    "uptime_at",
)
_CHUNK: Final = 500

AWAY: Final = frozenset({"sleeping", "offline", "lost"})
"""Presences of a scooter that hears nothing now."""

_QUARTZ: Final = 1e-4
"""A scooter's clock may be slower than ours by this share: most quartzes keep to half of it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """None for what is not known. `uptime_age_ms` is how long ago, at `read_at` (`clock` seconds),
    `uptime_ms` was heard, at most.
    """

    presence: str | None = None
    battery_percent: float | None = None
    lock: str | None = None
    lock_order: str | None = None
    lock_at: int | None = None
    boot: int | None = None
    uptime_boot: int | None = None
    uptime_ms: int | None = None
    uptime_age_ms: float | None = None
    read_at: float = 0.0

    @property
    def is_away(self) -> bool:
        return self.presence in AWAY

    def uptime(self, now: float) -> tuple[int, int] | None:
        """The current boot and its uptime in ms at `now`, at most what it truly is: (boot, up).

        None where the scooter never told it, not for its current boot, or a number that is not
        believed. The way up takes time, so the true uptime is later, and a deadline counted from
        this one is earlier.
        """
        if self.uptime_boot is None or self.uptime_ms is None or self.uptime_age_ms is None:
            return None
        if self.boot is not None and self.boot != self.uptime_boot:
            return None
        age_ms = self.uptime_age_ms + max(0.0, now - self.read_at) * 1000
        up = self.uptime_ms + math.floor(age_ms * (1 - _QUARTZ))
        return (self.uptime_boot, up) if up < UPTIME_MAX_MS else None


NOTHING: Final = Facts()


class FactsReader:
    """Reads them from the states in Redis.

    When an uptime was heard is told by Redis' clock, and so is how long ago that is: gateways may
    disagree about the time. Where that clock was set forward meanwhile, it is not believed.
    """

    def __init__(self, redis: Redis, *, now: Callable[[], float] = clock) -> None:
        self._redis = redis
        self._now = now
        self._steps = ForwardSteps()

    async def read(self, scooter_ids: Iterable[str]) -> dict[str, Facts]:
        """Of each scooter, NOTHING where its state cannot be read; raises ServerAway.

        Asked often, of none too, it notices each step of Redis' clock.
        """
        ids = list(dict.fromkeys(scooter_ids))
        found: dict[str, Facts] = {}
        for start in range(0, len(ids) or 1, _CHUNK):
            chunk = ids[start : start + _CHUNK]
            asked_at = self._now()
            with redis_translated():
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.time()
                    for scooter_id in chunk:
                        pipe.hmget(f"{SCOOTER}{scooter_id}", _FIELDS)
                    answers = await pipe.execute(raise_on_error=False)
                (seconds, micros), *rows = map(_readable, answers)
            read_at, read_ms = self._now(), seconds * 1000 + micros / 1000
            self._steps.note(read_ms, asked_at=asked_at, answered_at=read_at)
            for each, row in zip(chunk, rows, strict=True):
                found[each] = NOTHING
                if row is not None:
                    found[each] = self._facts(row, read_ms=read_ms, read_at=read_at)
        return found

    def _facts(self, row: list[bytes | None], *, read_ms: float, read_at: float) -> Facts:
        texts = [None if each is None else each.decode(errors="replace") for each in row]
        presence, battery, lock, lock_order, lock_at, *numbers = texts
        boot, uptime_boot, uptime_ms, uptime_at = map(_integer, numbers)
        age_ms = None
        if uptime_at is not None:
            age_ms = max(0.0, read_ms - uptime_at - self._steps.since_ms(uptime_at))
        return Facts(
            presence=presence,
            battery_percent=_number(battery),
            lock=lock,
            lock_order=lock_order,
            lock_at=_integer(lock_at),
            boot=boot,
            uptime_boot=uptime_boot,
            uptime_ms=uptime_ms,
            uptime_age_ms=age_ms,
            read_at=read_at,
        )


def _readable(answer: Any) -> Any:  # noqa: ANN401 - what the driver returns
    """None for a key that somebody's hand made no hash: its own fault. Raises any other error."""
    if isinstance(answer, Exception):
        if not str(answer).startswith("WRONGTYPE"):
            raise answer
        return None
    return answer


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # somebody else's hand
        return None


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
