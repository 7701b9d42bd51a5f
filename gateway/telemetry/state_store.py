"""Latest state in Redis: advance, read, near; owns the keys and the scripts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from gateway.errors import ServerAway, StateLost
from gateway.telemetry.entries import Entry
from gateway.telemetry.scripts import script

SCOOTER: Final = "scooter:"
DIRTY: Final = "scooters:dirty"
CLAIMS: Final = "scooters:claims"
LAST_SEEN: Final = "scooters:last_seen"
DEADLINES: Final = "scooters:deadlines"
POSITION: Final = "scooters:position"
CHANGES: Final = "scooters:changes"
HISTORY: Final = "scooters:history"
HISTORY_BYTES: Final = "scooters:history_bytes"
LOADED: Final = "scooters:loaded"

FULL: Final = "full"
"""The outcome of an event or a batch that the full history cannot take now."""

FOREIGN: Final = "foreign"
"""The outcome of an entry whose scooter's key holds something that is not a state."""

INTERNAL: Final = frozenset({"internal", "aside"})
"""Fields of the hash that are for the scripts alone."""

State = dict[str, str]
"""A scooter's hash: long names, numbers as decimal text, times as ms since epoch."""


@contextmanager
def redis_translated() -> Iterator[None]:
    """Turn the driver's errors into ServerAway, and a missing marker into StateLost."""
    try:
        yield
    except ResponseError as error:
        if str(error).startswith("NOTLOADED"):
            raise StateLost(str(error)) from None
        raise ServerAway("redis", str(error)) from error
    except (RedisError, OSError) as error:
        raise ServerAway("redis", str(error) or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class Advanced:
    """What became of a batch: one outcome an entry, and what a full history dropped of it."""

    outcomes: list[str]
    dropped: int


class StateStore:
    """The states of the whole fleet. Every method raises ServerAway while Redis cannot serve."""

    def __init__(self, redis: Redis, *, stale_after_s: float, history_max_bytes: int) -> None:
        self._redis = redis
        self._stale_after_ms = int(stale_after_s * 1000)
        self._history_max_bytes = history_max_bytes
        self._advance = redis.register_script(script("advance"))
        self._sweep = redis.register_script(script("sweep"))
        self._reset_order = redis.register_script(script("reset_order"))

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced:
        """Fold a batch into the states and append to the history, in one round trip.

        Repeating a call is harmless. Raises StateLost when Redis was emptied: nothing of the
        batch is kept then.
        """
        batch = orjson.dumps({"at": received_ms, "entries": entries})
        with redis_translated():
            outcomes, dropped = await self._advance(
                args=[batch, self._history_max_bytes, self._stale_after_ms]
            )
        return Advanced([outcome.decode() for outcome in outcomes], dropped)

    async def sweep(self, *, now_ms: int, at_most: int) -> list[str]:
        """Judge up to `at_most` scooters that fell silent; what the presence of each is now."""
        with redis_translated():
            became = await self._sweep(args=[now_ms, at_most, self._stale_after_ms])
        return [presence.decode() for presence in became]

    async def read(self, scooter_id: str) -> State | None:
        """One scooter's state without the fields that are for the scripts; None if unknown."""
        with redis_translated():
            fields: dict[bytes, bytes] = await self._redis.hgetall(f"{SCOOTER}{scooter_id}")  # type: ignore[assignment]
        state = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        return {name: value for name, value in state.items() if name not in INTERNAL} or None

    async def near(self, lat: float, lon: float, *, within_m: float) -> list[tuple[str, float]]:
        """Ids and distances in metres of the scooters around a point, nearest first."""
        with redis_translated():
            found: Any = await self._redis.geosearch(
                POSITION,
                latitude=lat,
                longitude=lon,
                radius=within_m,
                unit="m",
                sort="ASC",
                withdist=True,
            )
        return [(scooter_id.decode(), float(distance)) for scooter_id, distance in found]

    async def reset_order(self, scooter_id: str) -> bool:
        """Let the scooter's next report be newer whatever its numbers; False if unknown."""
        with redis_translated():
            return bool(await self._reset_order(args=[scooter_id]))
