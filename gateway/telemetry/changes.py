"""The channel on which the state scripts tell every change: for live views."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from gateway.telemetry.state_store import CHANGES, redis_translated

_POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of one scooter that changed, as text; None for a field that is gone."""

    scooter_id: str
    fields: dict[str, str | None]


async def changes(
    redis: Redis, *, subscribed: asyncio.Event | None = None
) -> AsyncIterator[Change | None]:
    """Every change from now on; None in a quiet moment, at least every quarter of a second.

    `subscribed` is set once nothing is missed any more. Raises ServerAway when Redis goes away,
    or cuts us off because we read too slowly.
    """
    async with redis.pubsub(ignore_subscribe_messages=False) as channel:
        with redis_translated():
            await channel.subscribe(CHANGES)
        while True:
            message = await _next(channel)
            if message is None:
                yield None
            elif message["type"] == "message":
                told = orjson.loads(message["data"])
                yield Change(told["scooter_id"], told["fields"])
            elif subscribed is not None:
                subscribed.set()


async def _next(channel: PubSub) -> dict[str, Any] | None:
    with redis_translated():
        message: dict[str, Any] | None = await channel.get_message(timeout=_POLL_S)
        return message
