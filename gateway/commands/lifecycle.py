"""Statuses of a command and the legal moves between them; pure."""

from collections.abc import Mapping
from typing import Final

from devices.contract.commands import RETRIED, AckStatus, CommandStatus, Rule

S = CommandStatus

OPEN: Final = frozenset({S.QUEUED, S.SENT, S.RECEIVED})
"""Something may still happen; one such command at most for each scooter and actuator."""

NEXT: Final[Mapping[CommandStatus, frozenset[CommandStatus]]] = {
    S.QUEUED: frozenset({S.SENT, S.REFUSED, S.EXPIRED, S.CANCELLED, S.SUPERSEDED}),
    # Sent again; or nobody subscribed to the first one, so that it waits or is refused after all;
    # or it is known that it never left.
    S.SENT: frozenset({S.SENT, S.QUEUED, S.REFUSED, S.RECEIVED, S.SUCCEEDED, S.FAILED, S.REJECTED})
    | {S.TIMED_OUT, S.EXPIRED, S.SUPERSEDED},
    # A lock that was received and rejected because the scooter moves is sent again.
    S.RECEIVED: frozenset({S.SENT, S.SUCCEEDED, S.FAILED, S.REJECTED, S.TIMED_OUT, S.SUPERSEDED}),
    # Unknown, not failed: resolved at most once.
    S.TIMED_OUT: frozenset({S.SUCCEEDED, S.FAILED, S.REJECTED}),
}
"""What may follow what; a status that is not here is the end."""

_ANSWERS: Final[Mapping[AckStatus, CommandStatus]] = {
    "received": S.RECEIVED,
    "success": S.SUCCEEDED,
    "error": S.FAILED,
    "rejected": S.REJECTED,
}


def before(status: CommandStatus) -> list[CommandStatus]:
    """Every status that `status` may follow."""
    return sorted(each for each, following in NEXT.items() if status in following)


def is_open(status: CommandStatus) -> bool:
    """Whether something may still happen before the command's time is up."""
    return status in OPEN


def answered(status: AckStatus) -> CommandStatus:
    """What an ack makes of a command."""
    return _ANSWERS[status]


def is_retried(rule: Rule, status: AckStatus, error: str | None, *, left_s: float) -> bool:
    """Whether a rejection is not the end yet: a scooter that moves is locked once it stands."""
    return rule.is_retried and status == "rejected" and error == RETRIED and left_s > 0


def ran_out(
    status: CommandStatus, *, has_left: bool = True, last_error: str | None = None
) -> CommandStatus:
    """How an open command ends when its time is up.

    `has_left` is False where the broker surely never had it. One that was rejected at each try is
    rejected: that nothing was done is known.
    """
    if status is S.QUEUED or (status is S.SENT and not has_left):
        return S.EXPIRED
    return S.REJECTED if last_error else S.TIMED_OUT
