"""Whether a scooter obeys a command, by its key, its memory and its uptime; no I/O, no clock."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

import orjson

from devices.contract import mac, topics
from devices.contract.commands import (
    RETRIED,
    Command,
    CommandError,
    Refusal,
    check_params,
    parse_command,
    rule_of,
)

_ANSWERS_KEPT: Final = 32
_FORGOTTEN: Final = (Refusal.RETAINED, "bad_mac", RETRIED)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not obeyed: the ack says `rejected` and this `error`."""

    request_id: str
    error: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """Known already: only the answer is sent again; None while there is no result yet."""

    request_id: str
    answer: bytes | None


Verdict = Command | Refuse | Repeat | None
"""A command to obey, its parameters complete; None: not worth an answer."""


class Obedience:
    """What one scooter remembers of its commands. All of it is in RAM: `reboot` forgets it.

    With a `key` nothing unsigned is obeyed.
    """

    def __init__(self, scooter_id: str, key: bytes | None) -> None:
        self._topic = topics.commands(scooter_id)
        self._key = key
        self._answers: OrderedDict[str, bytes | None] = OrderedDict()
        self._newest = -1

    def reboot(self) -> None:
        """Every command from before is foreign now: its boot was another."""
        self._answers.clear()
        self._newest = -1

    def judge(self, payload: bytes, *, retained: bool, boot: int, up_ms: int) -> Verdict:
        """What to do with a message on the commands topic, in this boot, at this uptime."""
        if retained:
            return _refuse(payload, Refusal.RETAINED)  # nobody's wish of this moment
        if self._key is not None and not mac.verify(self._key, self._topic, payload):
            return _refuse(payload, "bad_mac")
        try:
            command = parse_command(payload)
        except CommandError:
            return None
        if command.request_id in self._answers:
            return Repeat(command.request_id, self._answers[command.request_id])
        return self._weigh(command, boot=boot, up_ms=up_ms)

    def begin(self, command: Command) -> None:
        """It is being obeyed: from now on a copy of it changes nothing."""
        self._newest = command.n
        self._remember(command.request_id, None)

    def end(self, request_id: str, answer: bytes, *, error: str | None = None) -> None:
        """Keep the answer for copies that come later.

        Not a forged or retained one's, which would hide the real command, and not `moving`: the
        gateway may ask that again.
        """
        if error not in _FORGOTTEN:
            self._remember(request_id, answer)

    def _weigh(self, command: Command, *, boot: int, up_ms: int) -> Verdict:
        if command.n <= self._newest:
            return Refuse(command.request_id, "replayed")
        if _is_stale(command, boot=boot, up_ms=up_ms):
            return Refuse(command.request_id, "expired")
        try:
            return replace(command, params=check_params(command.command, command.params))
        except CommandError as error:
            return Refuse(command.request_id, error.reason)

    def _remember(self, request_id: str, answer: bytes | None) -> None:
        self._answers[request_id] = answer
        if len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)


def _is_stale(command: Command, *, boot: int, up_ms: int) -> bool:
    if command.is_past(boot=boot, up_ms=up_ms):
        return True
    # A scooter that tells boot and uptime gets both back: nothing opens it without either, and
    # an `exp` without its boot would count anew after each.
    return (command.exp is None or command.boot is None) and _opens(command.command)


def _opens(command: str) -> bool:
    try:
        return rule_of(command).guards
    except CommandError:
        return False


def _refuse(payload: bytes, error: str) -> Refuse | None:
    request_id = _request_id(payload)
    return None if request_id is None else Refuse(request_id, error)


def _request_id(payload: bytes) -> str | None:
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    request_id = said.get("request_id") if isinstance(said, dict) else None
    return request_id if isinstance(request_id, str) and 0 < len(request_id) <= 32 else None  # noqa: PLR2004
