"""Commands of the contract: the table, an operator's request and its replies, and the wire.

What a scooter does with a command, in this order: refuse one that came with the retained flag
(`retained`: nobody sends such, and it comes again at each CONNECT); check `mac` if it has a key
(`bad_mac`); answer a known `request_id` with the stored answer and do nothing; refuse an `n` that
is not greater than any it obeyed (`replayed`); refuse a foreign `boot` or an `exp` that its uptime
has passed (`expired`); then `unknown_command`, `bad_params`, and what the moment says (`moving` …).
It stores its last answers but `rejected` with `retained` or `bad_mac`, which say nothing of the
command itself, and with `moving`: the gateway tries a lock again, with a new `n`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from broker.errors import FleetError
from devices.contract.messages import PAYLOAD_MAX, Counter
from devices.contract.topics import SCOOTER_ID

DAY_S: Final = 86_400

UPTIME_MAX_MS: Final = 10**11
"""Three years. A scooter that says more is not believed: longer numbers would not fit."""

NUMBER_MAX: Final = 10**13
"""Issue numbers stay below it, as the clock in ms does until 2286."""

REQUEST_MAX: Final = 2048
"""Bytes of the largest request."""

RETRIED: Final = "moving"
"""The one `error` of a `rejected` that a scooter does not store: it may be asked again."""


class CommandStatus(StrEnum):
    """How far a command is; `gateway/commands/lifecycle.py` has the legal moves."""

    REFUSED = "refused"
    QUEUED = "queued"
    SENT = "sent"
    RECEIVED = "received"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Refusal(StrEnum):
    """The first word of a refusal's `detail`; a sentence may follow after `: `."""

    BAD_REQUEST = "bad_request"
    BAD_PARAMS = "bad_params"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_SCOOTER = "unknown_scooter"
    NOT_ACTIVE = "not_active"
    NO_RIGHT = "no_right"
    REF_REUSED = "ref_reused"
    RETAINED = "retained"
    EXPIRED = "expired"
    CLOCK_AHEAD = "clock_ahead"
    AWAY = "away"
    LOW_BATTERY = "low_battery"
    NOT_LOCKED = "not_locked"
    NO_UPTIME = "no_uptime"
    NOT_WAITING = "not_waiting"
    UNAVAILABLE = "unavailable"


class CommandError(FleetError):
    """A command that cannot be: `reason` is a word of `Refusal`, or of an ack's `error`."""

    exit_code = 2

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.reason = reason


class NoParams(BaseModel):
    """Of a command that says everything by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LocateParams(NoParams):
    """`s` seconds of light and horn."""

    s: Annotated[StrictInt, Field(ge=1, le=30)] = 10
    light: StrictBool = True
    horn: StrictBool = True


class SwitchParams(NoParams):
    """On or off."""

    on: StrictBool


class SpeedLimitParams(NoParams):
    """km/h; 0 lets the scooter only be pushed."""

    kmh: Annotated[StrictInt, Field(ge=0, le=45)]


class ReportIntervalParams(NoParams):
    """Seconds between reports while riding and while parked; at least one of them."""

    riding: Annotated[StrictInt, Field(ge=1, le=3600)] | None = None
    parked: Annotated[StrictInt, Field(ge=1, le=DAY_S)] | None = None

    @model_validator(mode="after")
    def _has_one(self) -> "ReportIntervalParams":
        if self.riding is None and self.parked is None:
            raise ValueError("riding or parked is needed")
        return self


class CancelParams(NoParams):
    """The command that shall not be sent any more, by the id that its replies name."""

    request_id: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the table: what a command takes, how long it counts, what it needs.

    `ttl_s` is also the most that a request may ask for. `waits`: queued while the scooter is
    away, and follows it into another boot. `guards`: opens the scooter, so it needs an active
    standing, enough battery and a known uptime. `when_locked`: the last known lock is `locked`.
    Commands of one `actuator` replace each other.
    """

    params: type[NoParams] = NoParams
    ttl_s: int
    waits: bool = False
    resends: int
    actuator: str
    guards: bool = False
    when_locked: bool = False
    is_retried: bool = False


COMMANDS: Final[Mapping[str, Rule]] = {
    "unlock": Rule(ttl_s=20, resends=2, actuator="lock", guards=True),
    "lock": Rule(ttl_s=60, resends=3, actuator="lock", is_retried=True),
    "unlock_battery": Rule(ttl_s=20, resends=2, actuator="battery", guards=True),
    "locate": Rule(params=LocateParams, ttl_s=15, resends=1, actuator="locate"),
    "headlight": Rule(params=SwitchParams, ttl_s=15, resends=1, actuator="headlight"),
    "alarm": Rule(params=SwitchParams, ttl_s=30, resends=2, actuator="alarm"),
    "get_state": Rule(ttl_s=15, resends=2, actuator="state"),
    "reboot": Rule(ttl_s=60, resends=0, actuator="power", when_locked=True),
    "power_off": Rule(ttl_s=60, resends=0, actuator="power", when_locked=True),
    "set_speed_limit": Rule(
        params=SpeedLimitParams, ttl_s=7 * DAY_S, waits=True, resends=3, actuator="speed_limit"
    ),
    "set_report_interval": Rule(
        params=ReportIntervalParams,
        ttl_s=7 * DAY_S,
        waits=True,
        resends=3,
        actuator="report_interval",
    ),
}
"""Every command that a scooter may be sent."""

CANCEL: Final = "cancel"
"""A request about another command; it never reaches a scooter."""


class Request(BaseModel):
    """An operator's wish. `at` is ms by the operator's clock; `ttl` s, at most the command's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ref: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=64)]
    at: Annotated[StrictInt, Field(ge=0, lt=10**14)]
    scooter_id: Annotated[str, StringConstraints(strict=True, pattern=rf"^{SCOOTER_ID}$")]
    command: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=32)]
    params: dict[str, Any] = {}
    ttl: Annotated[float, Field(strict=True, gt=0, le=31 * DAY_S)] | None = None
    reason: Annotated[str, StringConstraints(strict=True, max_length=256)] | None = None
    force: StrictBool = False


class Reply(TypedDict, total=False):
    """One move of an operator's command. `at` is ms by our clock; `move` numbers them from 1.

    A refusal that could not be recorded has neither `request_id` nor `move`, and only what could
    be read of the request.
    """

    ref: str
    request_id: str
    scooter_id: str
    command: str
    status: CommandStatus
    at: int
    move: int
    detail: str


class _Wire(TypedDict, total=False):
    request_id: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{16}$")]
    command: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=32)]
    params: dict[str, Any]
    n: Annotated[StrictInt, Field(ge=0, lt=NUMBER_MAX)]
    boot: Counter
    exp: Annotated[StrictInt, Field(ge=0, lt=UPTIME_MAX_MS)]
    mac: Annotated[str, StringConstraints(strict=True)]


_WIRE: Final = TypeAdapter(_Wire)
_NEEDED: Final = ("request_id", "command", "n")
_REPLY: Final = TypeAdapter(Reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a scooter is sent. `n` is the issue number; `exp` ms of its own uptime in `boot`."""

    request_id: str
    command: str
    params: Mapping[str, Any]
    n: int
    boot: int | None = None
    exp: int | None = None

    def is_past(self, *, boot: int, up_ms: int) -> bool:
        """Whether a scooter in this boot, with this uptime, must not obey any more."""
        if self.boot is not None and self.boot != boot:
            return True
        return self.exp is not None and up_ms > self.exp


def rule_of(command: str) -> Rule:
    """The line of the table; raises CommandError for a command that is not in it."""
    try:
        return COMMANDS[command]
    except KeyError:
        raise CommandError(
            Refusal.UNKNOWN_COMMAND, f"{command[:32]!r} is none of {', '.join(COMMANDS)}"
        ) from None


def check_params(command: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with their defaults filled in; raises CommandError.

    For a scooter too: the reasons are `unknown_command` and `bad_params`, as its acks say them.
    """
    model = CancelParams if command == CANCEL else rule_of(command).params
    try:
        return model.model_validate(dict(params)).model_dump(exclude_none=True)
    except ValidationError as error:
        raise CommandError(Refusal.BAD_PARAMS, _first_problem(error)) from None


def parse_request(payload: bytes) -> Request:
    """An operator's request, its command and params not looked at yet; raises CommandError."""
    if len(payload) > REQUEST_MAX:
        raise CommandError(
            Refusal.BAD_REQUEST, f"payload: {len(payload)} bytes, at most {REQUEST_MAX}"
        )
    if b"\\u0000" in payload:  # Postgres does not store it
        raise CommandError(Refusal.BAD_REQUEST, "payload: a text contains a NUL character")
    try:
        orjson.loads(payload)  # stricter than the validator: no NaN, no lone surrogates
        request = Request.model_validate_json(payload)
    except orjson.JSONDecodeError as error:
        raise CommandError(Refusal.BAD_REQUEST, f"payload: {error}") from None
    except ValidationError as error:
        raise CommandError(Refusal.BAD_REQUEST, _first_problem(error)) from None
    return request


def build_request(request: Request) -> bytes:
    """The payload of a request."""
    return orjson.dumps(request.model_dump(exclude_defaults=True))


def parse_reply(payload: bytes) -> Reply:
    """What an operator hears; raises CommandError."""
    try:
        return _REPLY.validate_json(payload)
    except ValidationError as error:
        raise CommandError(Refusal.BAD_REQUEST, _first_problem(error)) from None


def build_command(command: Command) -> bytes:
    """The payload without `mac`; `mac.sign` adds it, and there is room for it in 200 bytes."""
    members: dict[str, Any] = {"request_id": command.request_id, "command": command.command}
    if command.params:
        members["params"] = dict(command.params)
    members["n"] = command.n
    if command.boot is not None and command.exp is not None:
        members |= {"boot": command.boot, "exp": command.exp}
    return orjson.dumps(members)


def parse_command(payload: bytes) -> Command:
    """What a scooter makes of a payload, `mac` and `params` not checked yet.

    Raises CommandError with `bad_request` for what no gateway sends.
    """
    if len(payload) > PAYLOAD_MAX:
        raise CommandError(Refusal.BAD_REQUEST, f"payload: {len(payload)} bytes")
    try:
        wire = _WIRE.validate_json(payload)
    except ValidationError as error:
        raise CommandError(Refusal.BAD_REQUEST, _first_problem(error)) from None
    if missing := [name for name in _NEEDED if name not in wire]:
        raise CommandError(Refusal.BAD_REQUEST, f"{missing[0]}: missing")
    return Command(
        request_id=wire["request_id"],
        command=wire["command"],
        params=wire.get("params", {}),
        n=wire["n"],
        boot=wire.get("boot"),
        exp=wire.get("exp"),
    )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "payload"
    return f"{where}: {first['msg']}"


AckStatus = Literal["received", "success", "error", "rejected"]
"""What a scooter's ack says."""
