"""Online, stale, offline, lost: judges the scooters whose silence has become remarkable."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.outage import Outage

SWEEP_PERIOD_S: Final = 1.0
SWEEP_AT_MOST: Final = 500
SETTLING_IN_S: Final = 10.0
"""After a (re)connect the broker first brings what it kept: until then silence says nothing."""


class Sweepable(Protocol):
    """Whose presence can be judged."""

    async def sweep(self, *, now_ms: int, at_most: int) -> list[str]: ...


async def watch_presence(
    states: Sweepable, *, is_listening: Callable[[], bool], metrics: Metrics
) -> None:
    """Sweep once a second while reports can arrive: what we could not hear is not silence."""
    outage = Outage("redis for presence")
    listening_since: float | None = None
    while True:
        wait_s = SWEEP_PERIOD_S
        now = time.monotonic()
        if not is_listening():
            listening_since = None
        elif listening_since is None:
            listening_since = now
        elif now - listening_since >= SETTLING_IN_S:
            try:
                await sweep(states, metrics)
                outage.back()
            except ServerAway as error:
                wait_s = outage.away(error)
        await asyncio.sleep(wait_s)


async def sweep(states: Sweepable, metrics: Metrics) -> None:
    """Judge everyone who is due now."""
    now_ms = time.time_ns() // 1_000_000
    while True:
        became = await states.sweep(now_ms=now_ms, at_most=SWEEP_AT_MOST)
        for presence, count in Counter(became).items():
            if presence in ("stale", "lost"):
                metrics.presence.labels(presence=presence).inc(count)
        if len(became) < SWEEP_AT_MOST:
            return
