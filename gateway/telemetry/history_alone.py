"""History without Postgres: the stream keeps the newest, for whoever looks into Redis."""

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.redis import is_away
from gateway.telemetry.history_stream import HistoryStream

PERIOD_S: Final = 1.0


async def keep_newest(redis: Redis, *, at_most_bytes: int, metrics: Metrics) -> None:
    """Every second, for ever, forget the oldest beyond `at_most_bytes`.

    No receipts are sent: they say that an event is in Postgres.
    """
    stream = HistoryStream(redis)
    outage = Outage("history")
    while True:
        wait_s = PERIOD_S
        try:
            await stream.keep_newest(at_most_bytes)
            await stream.measure(metrics)
            outage.back()
        except (OSError, RedisError) as error:
            if not is_away(error):
                raise
            wait_s = outage.away(f"{type(error).__name__}: {error}")
        await asyncio.sleep(wait_s)
