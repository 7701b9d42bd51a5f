"""Deliveries that arrived together and are settled on the connection that brought them."""

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.links.delivery import Delivery, Outcome

BATCH_MAX: Final = 256
"""Deliveries in a batch at most."""


class Origin(Protocol):
    """The connection that brought a batch."""

    @property
    def is_over(self) -> bool: ...

    def settle(self, batch: "Batch", outcomes: Sequence[Outcome | None]) -> None: ...


class Batch:
    """At most `BATCH_MAX` deliveries in the broker's order.

    `received_ms` is the wall clock when the last of them was read, so that a delivery is never
    taken for older than it is; `read_at` is the loop's clock when the first was.
    """

    __slots__ = ("_origin", "deliveries", "read_at", "received_ms", "size")

    def __init__(self, origin: Origin, read_at: float) -> None:
        self._origin = origin
        self.deliveries: list[Delivery] = []
        self.received_ms = 0
        self.read_at = read_at
        self.size = 0

    @property
    def is_abandoned(self) -> bool:
        """Whether its connection is gone: settling it does nothing, the broker sends it again."""
        return self._origin.is_over

    def settle(self, outcomes: Sequence[Outcome | None]) -> None:
        """Tell the broker that we are done: one outcome for each of `deliveries`, in their order.

        A delivery whose outcome is None stays held, and `deliveries` holds just those
        afterwards, for a later call. Where the connection is gone nothing is sent and they
        have been counted as abandoned. Raises ValueError when the numbers differ.
        """
        if len(outcomes) != len(self.deliveries):
            raise ValueError(f"{len(outcomes)} outcomes for {len(self.deliveries)} deliveries")
        self._origin.settle(self, outcomes)
