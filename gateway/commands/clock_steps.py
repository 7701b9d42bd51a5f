"""When another machine's clock was set forward, by comparing it with one that never steps; pure."""

from collections import deque
from typing import Final

_SLEW_MS: Final = 50.0
"""Less than this is a clock that is slewed, or two that do not run at one speed."""

_KEPT_MAX: Final = 100


class ForwardSteps:
    """What has passed by a clock that was set forward meanwhile is less than it says.

    Told of each reading with our own clock (s) before it was asked and after it answered.
    """

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None
        """How far it is ahead of ours in ms: at least, at most."""
        self._steps: deque[tuple[float, float]] = deque()

    def note(self, reading_ms: float, *, asked_at: float, answered_at: float) -> None:
        """One reading: a step is what no delay of the answer explains."""
        least, most = reading_ms - answered_at * 1000, reading_ms - asked_at * 1000
        if self._ahead is not None and least > self._ahead[1] + _SLEW_MS:
            self._steps.append((reading_ms, most - self._ahead[0]))
            if len(self._steps) > _KEPT_MAX:  # the two oldest become one, seen with the later
                (_, earlier), (seen_ms, later) = self._steps.popleft(), self._steps.popleft()
                self._steps.appendleft((seen_ms, earlier + later))
        self._ahead = (least, most)

    def since_ms(self, reading_ms: float) -> float:
        """By how much it was set forward, at most, since it read this."""
        return sum(step for seen_ms, step in self._steps if seen_ms >= reading_ms)
