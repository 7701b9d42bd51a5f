"""What the commands need of the floor above, which hands it in: servers, listeners, sightings."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from broker.admission import Broker
from devices.bundle import BundleFacts


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scooter's own messages told last; None for what nobody knows."""

    presence: str | None = None
    received_at: datetime | None = None
    firmware: str | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed of a retired scooter: keys and marks in Redis, rows in Postgres."""

    redis: int
    postgres: int
    status_cleared: bool
    """Whether the broker confirmed that it retains no status of the scooter any more."""


Lookup = Callable[[Sequence[str]], Awaitable[Mapping[str, Seen]]]
"""What is known of these scooters; one that was never seen is left out."""


class Workshop(Protocol):
    """Opens what a command asks for.

    Each method raises a FleetError that names the setting which is missing or wrong.
    """

    def pool(self) -> AbstractAsyncContextManager[Any]:
        """A small pool of Postgres; refusals inside the block become sentences."""
        ...

    def broker(self) -> Broker: ...

    def facts(self) -> BundleFacts: ...

    def lookup(self, pool: Any) -> AbstractAsyncContextManager[Lookup]:  # noqa: ANN401 - a pool
        """From Redis, and from Postgres while Redis is away."""
        ...

    async def forget(self, scooter_id: str) -> Forgotten:
        """Remove the latest state and the retained status of a scooter; may be repeated."""
        ...


Opener = Callable[[], Workshop]
"""What the `scooter` command puts into typer's context: nothing is read before it is called."""
