"""A name that one process holds at a time: a key in Redis that runs out."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.outage import Outage
from gateway.storage.redis import is_away

log = structlog.get_logger()

PRIMARY: Final = "gateway:primary:lease"
"""Whoever holds it carries events and control."""

_MARGIN: Final = 0.9  # of the lease that we count on: clocks do not run at one speed

TAKE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return math.max(1, redis.call('PTTL', KEYS[1])) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
"""

RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


def instance_key(instance: str) -> str:
    """The lease on an instance name; a second process with that name stands by."""
    return f"gateway:{instance}:lease"


def _now() -> float:
    """A clock that also runs while the machine sleeps: monotonic on Linux does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Held until it runs out by our own clock, which starts before Redis' does.

    A process that was frozen past that finds `is_held()` false before anything else happens;
    so ask it before each act that only one may do. Redis emptied under two processes may make
    both hold it until the first one's next renewal, a third of `lease_s` later at most.
    """

    def __init__(
        self, redis: Redis, key: str, *, lease_s: float, gauge: Gauge | None = None
    ) -> None:
        self._key = key
        self._lease_s = lease_s
        self._gauge = gauge
        self._token = secrets.token_hex(16)
        self._take = redis.register_script(TAKE)
        self._release = redis.register_script(RELEASE)
        self._outage = Outage(f"redis, {key}", most_s=lease_s / 3)
        self._held_until = 0.0
        self._held = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._when_lost: list[Callable[[str], None]] = []
        self._is_standing_by = False

    def is_held(self) -> bool:
        """Whether we may act now, by our own clock."""
        return _now() < self._held_until

    def is_elsewhere(self) -> bool:
        """Whether another process had it when we asked last."""
        return self._is_standing_by and not self.is_held()

    async def wait_held(self) -> bool:
        """Return True once the lease is held: what a session awaits before each CONNECT."""
        while not self.is_held():
            self._lose_if_run_out()
            await self._held.wait()
        return True

    def when_lost(self, call: Callable[[str], None]) -> None:
        """`call` is told the reason each time the lease is lost, such as `Session.leave`."""
        self._when_lost.append(call)

    async def run(self) -> None:
        """Take the lease, renew it, stand by while another has it; releases it when cancelled."""
        try:
            while True:
                wait_s = await self._take_or_wait()
                await asyncio.sleep(wait_s)
        finally:
            await self._let_go()

    async def _take_or_wait(self) -> float:
        """Returns the seconds until the next attempt."""
        asked_at = _now()
        try:
            left_ms = int(
                await self._take(keys=[self._key], args=[self._token, int(self._lease_s * 1000)])
            )
        except (OSError, RedisError) as error:
            if not is_away(error):
                raise
            return self._outage.away(str(error) or type(error).__name__)
        self._outage.back()
        self._lose_if_run_out()
        if left_ms:
            self._lose("another process has it")
            if not self._is_standing_by:
                self._is_standing_by = True
                log.info("standing by", lease=self._key)
            return min(left_ms / 1000, self._lease_s / 3)
        self._keep(asked_at + self._lease_s * _MARGIN)
        return self._lease_s / 3

    def _keep(self, until: float) -> None:
        self._held_until = until
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(
            max(0.0, until - _now()), self._lose_if_run_out
        )
        if not self._held.is_set() and self.is_held():
            self._held.set()
            self._is_standing_by = False
            self._tell(held=True)
            log.info("lease taken", lease=self._key)

    def _lose_if_run_out(self) -> None:
        if not self._held.is_set():
            return
        left_s = self._held_until - _now()
        if left_s <= 0:
            self._lose("it ran out")
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(left_s, self._lose_if_run_out)

    def _lose(self, reason: str) -> None:
        self._held_until = 0.0
        if not self._held.is_set():
            return
        self._held.clear()
        self._tell(held=False)
        log.warning("lease lost", lease=self._key, reason=reason)
        for call in self._when_lost:
            call(f"the lease was lost: {reason}")

    def _tell(self, *, held: bool) -> None:
        if self._gauge is not None:
            self._gauge.set(held)

    async def _let_go(self) -> None:
        """The lease is free at once for a standby, where Redis is there to hear it."""
        if self._timer is not None:
            self._timer.cancel()
        self._held_until = 0.0
        self._held.clear()
        self._tell(held=False)
        try:
            async with asyncio.timeout(1.0):
                await self._release(keys=[self._key], args=[self._token])
        except (OSError, RedisError) as error:
            log.debug("lease not released, it will run out", lease=self._key, reason=str(error))
