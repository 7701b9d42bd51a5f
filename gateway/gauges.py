"""Keeps the gauges that nobody's work sets: ages, dirty marks, whether a store answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from redis.exceptions import RedisError

from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.storage.postgres import AWAY
from gateway.telemetry.snapshots import DirtySet

PERIOD_S: Final = 2.0
_AWAY: Final[tuple[type[BaseException], ...]] = (ServerAway, RedisError, *AWAY)


class Holder(Protocol):
    """What holds deliveries that are not settled."""

    def oldest_unsettled_s(self) -> float: ...


async def keep_gauges(
    holders: list[Holder],
    dirty: DirtySet,
    stores: Mapping[str, Callable[[], Awaitable[object]]],
    metrics: Metrics,
) -> None:
    """Every two seconds, for ever; `stores` are asked by name whether they answer.

    Apart from the loops that do the work: it is just while those wait for a server that
    somebody looks here.
    """
    while True:
        metrics.oldest_unsettled_s.set(max(holder.oldest_unsettled_s() for holder in holders))
        for name, ask in stores.items():
            metrics.connected.labels(connection=name).set(await _answers(ask))
        try:
            count, oldest_s = await dirty.age(await dirty.now_ms())
            metrics.dirty.set(count)
            metrics.oldest_dirty_s.set(oldest_s)
        except ServerAway:
            pass  # told by the loops that need it
        await asyncio.sleep(PERIOD_S)


async def _answers(ask: Callable[[], Awaitable[object]]) -> bool:
    try:
        async with asyncio.timeout(PERIOD_S):
            await ask()
    except _AWAY:
        return False
    return True
