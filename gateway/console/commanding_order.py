"""What an operator orders, each request of it, and what came of that; pure."""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from devices.console.exits import Exit
from devices.contract.commands import (
    CANCEL,
    CommandStatus,
    Refusal,
    Reply,
    Request,
    build_request,
    rule_of,
)
from gateway.commands.judging import CANCEL_RULE
from gateway.commands.lifecycle import is_open

GRACE_S: Final = 5.0
"""A gateway tells the end of a command so long after its time was up at the latest."""

RECORDED_WITHIN_S: Final = 10.0
"""Whoever does not wait for the end waits so long to hear that the gateway has it."""

ENOUGH: Final = 10
"""So many must have ended before their share of failures says anything."""

_CLOCK_WRONG_MS: Final = 5_000


class Fate(StrEnum):
    """What no gateway says: nobody answered in time, or it was never asked for."""

    UNANSWERED = "unanswered"
    NOT_ASKED = "not_asked"


Outcome = CommandStatus | Fate

_EXITS: Final[Mapping[Outcome, Exit]] = {
    CommandStatus.SUCCEEDED: Exit.OK,
    CommandStatus.FAILED: Exit.FAILED,
    CommandStatus.REJECTED: Exit.FAILED,
    CommandStatus.REFUSED: Exit.REFUSED,
    CommandStatus.TIMED_OUT: Exit.TIMED_OUT,
    CommandStatus.EXPIRED: Exit.EXPIRED,
    CommandStatus.CANCELLED: Exit.EXPIRED,
    CommandStatus.SUPERSEDED: Exit.EXPIRED,
    Fate.UNANSWERED: Exit.TIMED_OUT,
    Fate.NOT_ASKED: Exit.FAILED,
}
_BY_WEIGHT: Final = (
    Exit.OK,
    Exit.EXPIRED,
    Exit.NOT_FOUND,
    Exit.REFUSED,
    Exit.FAILED,
    Exit.TIMED_OUT,
)
"""The last is the worst: somebody has to go and look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One command for some scooters. `ttl_s` None: as long as the command counts by itself.

    `wait_s` None: until the end. `rate` is requests a second, `at_once` how many may be
    under way, `abort_above` the share of failures that ends it.
    """

    command: str
    params: Mapping[str, Any] = field(default_factory=dict)
    scooter_ids: Sequence[str]
    ttl_s: float | None = None
    reason: str | None = None
    force: bool = False
    waits: bool = True
    wait_s: float | None = None
    rate: float = 100.0
    at_once: int = 100
    abort_above: float = 0.5
    as_json: bool = False

    @property
    def patience_s(self) -> float:
        """How long to wait for one of them, from its request."""
        if not self.waits:
            return RECORDED_WITHIN_S
        rule = CANCEL_RULE if self.command == CANCEL else rule_of(self.command)
        longest = (self.ttl_s or rule.ttl_s) + GRACE_S
        return longest if self.wait_s is None else min(longest, self.wait_s)


class Errand:
    """One request to one scooter, and what was heard of it; times by a monotonic clock."""

    def __init__(self, order: Order, scooter_id: str) -> None:
        self.order = order
        self.scooter_id = scooter_id
        self.ref = secrets.token_hex(12)
        self.request_id: str | None = None
        self.status: CommandStatus | None = None
        self.detail: str | None = None
        self.fate: Fate | None = None
        self.payload = b""
        self.asked_at = 0.0
        self.asked_ms = 0
        self.ended_at = 0.0
        self._move = 0
        self._times_asked = 0

    def ask(self, *, now: float, now_ms: int) -> bytes:
        """The request; the same bytes whenever it is asked again."""
        self.asked_at, self.asked_ms, self._times_asked = now, now_ms, 1
        order = self.order
        request = Request(
            ref=self.ref,
            at=now_ms,
            scooter_id=self.scooter_id,
            command=order.command,
            params=dict(order.params),
            ttl=order.ttl_s,
            reason=order.reason,
            force=order.force,
        )
        self.payload = build_request(request)
        return self.payload

    def ask_again(self) -> bytes:
        """The same request: the gateway tells the whole story of what it has already."""
        self._times_asked += 1
        return self.payload

    def hear(self, reply: Reply, *, now: float) -> bool:
        """Take a reply; False when it is no news: a story may be told twice."""
        if self.outcome_is_final:
            return False
        move = reply.get("move")
        if move is None:
            # A refusal that nobody recorded: true only if this was surely not accepted before.
            if self.status is not None or self._times_asked > 1:
                return False
        elif move <= self._move:
            return False
        self._move = move or self._move
        self.request_id = reply.get("request_id", self.request_id)
        self.status, self.detail = reply["status"], reply.get("detail")
        self.ended_at = now
        return True

    def give_up(self, *, now: float) -> None:
        """Nobody told the end in time."""
        last = f"last heard: {self.status}" if self.status else "no gateway answered"
        self.fate, self.detail, self.ended_at = Fate.UNANSWERED, last, now

    def leave_out(self) -> None:
        """It is not asked for any more."""
        self.fate = Fate.NOT_ASKED

    @property
    def outcome(self) -> Outcome | None:
        """How it stands, or ended; None before anything was heard."""
        return self.fate or self.status

    @property
    def outcome_is_final(self) -> bool:
        return self.fate is not None or (self.status is not None and not is_open(self.status))

    @property
    def is_queued(self) -> bool:
        """It waits for its scooter, which may take days."""
        return self.outcome is CommandStatus.QUEUED

    @property
    def is_good(self) -> bool:
        return self.exit is Exit.OK

    @property
    def exit(self) -> Exit:
        """The exit code that it alone would end with."""
        if self.outcome is None:
            return Exit.TIMED_OUT
        if not self.outcome_is_final:
            return Exit.OK if not self.order.waits else Exit.TIMED_OUT
        return exit_of(self.outcome, self.detail)

    def clock_problem(self, reply: Reply) -> str | None:
        """What is wrong with this machine's clock, when that is why it was refused."""
        if reply["status"] is not CommandStatus.REFUSED or "at" not in reply:
            return None
        ahead_ms = self.asked_ms - reply["at"]
        is_about_time = self._is_refused(Refusal.CLOCK_AHEAD) or self._is_refused(Refusal.EXPIRED)
        if not is_about_time or abs(ahead_ms) < _CLOCK_WRONG_MS or self._times_asked > 1:
            return None
        which = "ahead of" if ahead_ms > 0 else "behind"
        return (
            f"this machine's clock is {abs(ahead_ms) / 1000:.0f} s {which} the gateway's: set it, "
            "and ask again"
        )

    def _is_refused(self, reason: Refusal) -> bool:
        return _reason(self.detail) == reason


def exit_of(outcome: Outcome, detail: str | None) -> Exit:
    """The exit code of an end; raises KeyError for what is none."""
    if outcome is CommandStatus.REFUSED and _reason(detail) == Refusal.UNKNOWN_SCOOTER:
        return Exit.NOT_FOUND
    return _EXITS[outcome]


def _reason(detail: str | None) -> str:
    return (detail or "").partition(":")[0]


class Tally:
    """How the errands of an order ended so far."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.counts: Counter[Outcome] = Counter()
        self._good = 0

    def add(self, errand: Errand) -> None:
        outcome = errand.outcome or Fate.UNANSWERED
        self.counts[outcome] += 1
        self._good += errand.is_good

    @property
    def ended(self) -> int:
        return self.counts.total()

    @property
    def bad(self) -> int:
        return self.ended - self._good

    @property
    def is_hopeless(self) -> bool:
        """Whether more than the allowed share went wrong, of enough to tell."""
        return self.ended >= ENOUGH and self.bad > self.ended * self._order.abort_above


def worst(exits: Iterable[Exit]) -> Exit:
    """The exit code that stands for several."""
    return max(exits, key=_BY_WEIGHT.index, default=Exit.OK)
