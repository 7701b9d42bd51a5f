"""The account of deliveries: received = outcomes + in flight, at every moment."""

from collections import Counter
from collections.abc import Sequence

from gateway.links.delivery import Outcome
from gateway.metrics import Metrics


class Holding:
    """What one connection holds unsettled, booked in the process's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._received = metrics.received
        self._in_flight = metrics.in_flight
        self._outcomes = {o: metrics.deliveries.labels(outcome=o.value) for o in Outcome}
        self.count = 0
        self.size = 0
        """Bytes; a batch lets go of its own when the last of it is settled."""

    def take(self, count: int, size: int) -> None:
        """Book `count` deliveries of together `size` bytes as received and in flight."""
        self.count += count
        self.size += size
        self._received.inc(count)
        self._in_flight.inc(count)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Book each outcome."""
        self.count -= len(outcomes)
        self._in_flight.dec(len(outcomes))
        for outcome, count in Counter(outcomes).items():
            self._outcomes[outcome].inc(count)

    def abandon(self) -> None:
        """Book everything held as abandoned."""
        if self.count:
            self._in_flight.dec(self.count)
            self._outcomes[Outcome.ABANDONED].inc(self.count)
        self.count = self.size = 0
