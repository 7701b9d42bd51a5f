"""What the ledger takes and gives: new commands, moves, and commands as they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from devices.contract.commands import CommandStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a publish carries that is new each time; `next_send_s` until the next, None: none."""

    n: int
    boot: int | None = None
    exp: int | None = None
    next_send_s: float | None = None
    lock_order: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommand:
    """A command, or a refusal, with its first move. Times are ms; `content` is hex, as is
    `correlation`.
    """

    request_id: str
    operator: str
    login: str
    ref: str
    content: str
    scooter_id: str
    command: str
    actuator: str
    params: Mapping[str, Any]
    ttl_s: float
    requested_ms: int
    received_ms: int
    expires_ms: int
    reason: str | None
    force: bool
    status: CommandStatus
    detail: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    sending: Sending | None = None
    correlation: str | None = None
    response_topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One step of one command; `if_sends` makes it depend on how often it was sent."""

    request_id: str
    to: CommandStatus
    by: str
    detail: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    after: Sequence[CommandStatus] | None = None
    if_sends: int | None = None
    sending: Sending | None = None
    next_send_s: float | None = None
    last_error: str | None = None


class Moved(NamedTuple):
    """A command that was moved, as it stands now."""

    request_id: str
    scooter_id: str
    command: str
    status: CommandStatus
    sends: int


class Known(NamedTuple):
    """A command as it stands."""

    request_id: str
    scooter_id: str
    operator: str
    command: str
    status: CommandStatus
    sends: int
    boot: int | None
    last_error: str | None
    left_s: float


class StillOpen(NamedTuple):
    """An open command, for whoever takes up the work; times in s from now."""

    request_id: str
    scooter_id: str
    command: str
    login: str
    params: dict[str, Any]
    status: CommandStatus
    sends: int
    boot: int | None
    exp: int | None
    last_error: str | None
    left_s: float
    next_send_s: float | None
