"""One dependency's condition: how long to wait while it is away, and one log line a change."""

import random
import time

import structlog

log = structlog.get_logger()


class Outage:
    """Full-jitter backoff for one dependency.

    The longest wait doubles with each failure from `first_s` to `most_s` and falls back only
    after the dependency was there for `stable_s`, so that a server that accepts and then drops
    us is not hammered.
    """

    def __init__(
        self, what: str, *, first_s: float = 0.2, most_s: float = 15.0, stable_s: float = 30.0
    ) -> None:
        self._what = what
        self._first_s = first_s
        self._most_s = most_s
        self._stable_s = stable_s
        self._ceiling_s = first_s
        self._back_at: float | None = None
        self._away_since: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the last thing told was `away`."""
        return self._away_since is not None

    def away(self, reason: object) -> float:
        """Note a failure; returns the seconds to wait before the next attempt."""
        now = time.monotonic()
        if self._back_at is not None and now - self._back_at >= self._stable_s:
            self._ceiling_s = self._first_s
        self._back_at = None
        if self._away_since is None:
            self._away_since = now
            log.warning("away", what=self._what, reason=str(reason))
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self._most_s, ceiling_s * 2)
        return random.uniform(0.1, 1.0) * ceiling_s  # noqa: S311 - jitter, not a secret

    def back(self) -> None:
        """Note a success; the backoff falls back once this has held for `stable_s`."""
        now = time.monotonic()
        if self._back_at is None:
            self._back_at = now
        if self._away_since is not None:
            log.info("back", what=self._what, away_s=round(now - self._away_since, 1))
            self._away_since = None
