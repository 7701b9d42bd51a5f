"""Acks that wait in Redis while Postgres is away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from gateway.telemetry.state_store import redis_translated

ACKS: Final = "scooters:acks"
"""A stream: `id` the scooter, `r` the request_id, `b` the ack's evidence as JSON."""

ACKS_MAX: Final = 1_000_000
"""Entries at most, about 250 MiB: the oldest go first, and their commands time out."""

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class ScooterAck:
    """An ack and who sent it; `body` has the members that count as evidence, never a position."""

    scooter_id: str
    request_id: str
    body: dict[str, Any]

    @property
    def error(self) -> str | None:
        error: str | None = self.body.get("error")
        return error


class AcksStream:
    """Every method raises ServerAway while Redis cannot serve."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def append(self, acks: Sequence[ScooterAck]) -> None:
        """In their order."""
        with redis_translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                for each in acks:
                    fields = {
                        "id": each.scooter_id,
                        "r": each.request_id,
                        "b": orjson.dumps(each.body),
                    }
                    pipe.xadd(ACKS, fields, maxlen=ACKS_MAX, approximate=True)  # type: ignore[arg-type]
                await pipe.execute()

    async def read(self) -> list[tuple[bytes, ScooterAck]]:
        """The oldest page, with the id of each entry."""
        with redis_translated():
            rows: Any = await self._redis.xrange(ACKS, count=_PAGE)
        return [
            (
                entry_id,
                ScooterAck(
                    fields[b"id"].decode(), fields[b"r"].decode(), orjson.loads(fields[b"b"])
                ),
            )
            for entry_id, fields in rows
        ]

    async def remove(self, entry_ids: Sequence[bytes]) -> None:
        """What Postgres has."""
        with redis_translated():
            await self._redis.xdel(ACKS, *entry_ids)
