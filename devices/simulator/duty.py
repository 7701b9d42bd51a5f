"""What one scooter does when it is commanded, and what it answers; no I/O, no clock."""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from devices.contract.commands import AckStatus, Command
from devices.simulator.obedience import Obedience, Refuse, Repeat
from devices.simulator.outbox import Outbox
from devices.simulator.plan import CommandMishaps, Obeyed, Totals, Witness
from devices.simulator.ride import Ride

_MISDEEDS_KEPT: Final = 32
_STRANGER: Final = "00000000deadbeef"

Overheard = deque[tuple[str, str]]
"""Scooter and request id of the fleet's last commands, for whoever answers for another."""


class Misdeed(StrEnum):
    """How a scooter misbehaves with a command; the names are those of `CommandMishaps`."""

    LATE = "late"
    TWICE = "twice"
    WRONG = "wrong"
    NEVER = "never"
    FOREIGN = "foreign"
    REBOOT = "reboot"
    JAM = "jam"


class Machine(Protocol):
    """What of the scooter a command can reach."""

    scooter_id: str
    ride: Ride
    outbox: Outbox
    boot: int

    @property
    def now_ms(self) -> int: ...
    @property
    def up_ms(self) -> int: ...
    def order(self) -> dict[str, object]: ...
    def group(self, name: str) -> dict[str, object]: ...
    def report_all(self) -> None: ...
    def set_intervals(self, *, riding_s: float | None, parked_s: float | None) -> None: ...
    def lose_power(self, *, switched_off: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class _Turning:
    request_id: str
    wanted: str


class Duty:
    """One scooter's commands, from the message to the last answer. `step` lets them go on."""

    def __init__(
        self,
        machine: Machine,
        *,
        key: bytes | None,
        mishaps: CommandMishaps,
        rng: random.Random,
        totals: Totals,
        witness: Witness | None = None,
        overheard: Overheard | None = None,
    ) -> None:
        self._machine = machine
        self._obedience = Obedience(machine.scooter_id, key)
        self._mishaps = mishaps
        self._rng = rng
        self._totals = totals
        self._witness = witness
        self._overheard = Overheard() if overheard is None else overheard
        self._misdeeds: dict[str, Misdeed] = {}
        self._withheld: list[tuple[int, bytes]] = []
        self._turning: _Turning | None = None
        self._leaving: str | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that `step` will end soon."""
        return self._turning is not None or self._leaving is not None

    def reboot(self) -> None:
        """All of it was in RAM."""
        self._obedience.reboot()
        self._misdeeds.clear()
        self._withheld.clear()
        self._turning = self._leaving = None

    def hear(self, payload: bytes, *, retained: bool) -> None:
        """A message on the commands topic, at this very moment."""
        machine, totals = self._machine, self._totals
        totals.commands += 1
        verdict = self._obedience.judge(
            payload, retained=retained, boot=machine.boot, up_ms=machine.up_ms
        )
        match verdict:
            case Command():
                self._consider(verdict)
            case Refuse(request_id, error):
                self._reject(request_id, error)
            case Repeat(request_id, answer):
                totals.commands_repeated += 1
                self._send(request_id, answer or self._ack(request_id, "received"))
            case None:
                totals.commands_ignored += 1

    def step(self) -> None:
        """What has become due: late answers, the end of a turn of the bolt, a reboot."""
        ride, outbox = self._machine.ride, self._machine.outbox
        due = [each for each in self._withheld if each[0] <= self._machine.now_ms]
        for each in due:
            self._withheld.remove(each)
            outbox.keep_ack(each[1])
        if self._turning is not None and ride.lock != "moving":
            turning, self._turning = self._turning, None
            if ride.lock == turning.wanted:
                self._end(turning.request_id, "success", groups=["lock"])
            else:
                self._end(turning.request_id, "error", error="jammed", groups=["lock"])
        if self._leaving is not None and not outbox.has_acks and not self._withheld:
            self._machine.lose_power(switched_off=self._leaving == "power_off")

    def _consider(self, command: Command) -> None:
        misdeed = self._draw(command.request_id)
        loses_power = misdeed is Misdeed.REBOOT
        if loses_power and self._rng.random() < 0.5:  # noqa: PLR2004
            self._totals.commands_ignored += 1
            self._machine.lose_power(switched_off=False)
            return
        error = self._machine.ride.objection(command.command)
        if error is not None:
            self._reject(command.request_id, error)
            return
        self._begin(command)
        if misdeed is Misdeed.WRONG:
            statuses: tuple[AckStatus, ...] = ("success", "error", "rejected")
            self._send(
                command.request_id, self._ack(command.request_id, self._rng.choice(statuses))
            )
        self._send(command.request_id, self._ack(command.request_id, "received"))
        self._execute(command, command.params)
        if loses_power:
            self._machine.lose_power(switched_off=False)

    def _begin(self, command: Command) -> None:
        machine = self._machine
        self._obedience.begin(command)
        self._totals.commands_obeyed += 1
        if self._witness is not None:
            self._witness(
                Obeyed(
                    scooter_id=machine.scooter_id,
                    request_id=command.request_id,
                    command=command.command,
                    n=command.n,
                    boot=machine.boot,
                    up_ms=machine.up_ms,
                    at_ms=machine.now_ms,
                    exp_ms=command.exp,
                )
            )

    def _execute(self, command: Command, params: Any) -> None:  # noqa: ANN401 - checked, by name
        machine, request_id = self._machine, command.request_id
        match command.command:
            case "unlock" | "lock":
                wanted = f"{command.command}ed"
                sticks = self._misdeeds.get(request_id) is Misdeed.JAM
                machine.ride.turn_bolt(wanted, sticks=sticks)
                self._turning = _Turning(request_id, wanted)
                self.step()
                return
            case "get_state":
                machine.report_all()
                self._end(request_id, "success", after_reports=True)
                return
            case "set_speed_limit":
                machine.ride.limit_kmh = float(params["kmh"])
            case "set_report_interval":
                machine.set_intervals(riding_s=params.get("riding"), parked_s=params.get("parked"))
            case "unlock_battery":
                machine.ride.open_battery()
            case "reboot" | "power_off":
                self._leaving = command.command  # as soon as the broker has the answer
        self._end(request_id, "success")

    def _reject(self, request_id: str, error: str) -> None:
        self._totals.commands_rejected += 1
        self._end(request_id, "rejected", error=error)

    def _end(
        self,
        request_id: str,
        status: AckStatus,
        *,
        error: str | None = None,
        groups: Iterable[str] = (),
        after_reports: bool = False,
    ) -> None:
        answer = self._ack(request_id, status, error=error, groups=groups)
        self._obedience.end(request_id, answer, error=error)
        self._send(request_id, answer, after_reports=after_reports)

    def _ack(
        self,
        request_id: str,
        status: AckStatus,
        *,
        error: str | None = None,
        groups: Iterable[str] = (),
    ) -> bytes:
        machine = self._machine
        if self._misdeeds.get(request_id) is Misdeed.FOREIGN:
            request_id = self._request_of_another()
        said: dict[str, object] = {"request_id": request_id, "status": status}
        if error is not None:
            said["error"] = error
        said |= machine.order() | {"up": machine.up_ms}
        for name in groups:
            said |= machine.group(name)
        return orjson.dumps(said)

    def _send(self, request_id: str, payload: bytes, *, after_reports: bool = False) -> None:
        outbox = self._machine.outbox
        match self._misdeeds.get(request_id):
            case Misdeed.NEVER:
                return
            case Misdeed.LATE:
                at_ms = self._machine.now_ms + round(self._mishaps.late_s * 1000)
                self._withheld.append((at_ms, payload))
                return
            case Misdeed.TWICE:
                outbox.keep_ack(payload, after_reports=after_reports)
        outbox.keep_ack(payload, after_reports=after_reports)

    def _draw(self, request_id: str) -> Misdeed | None:
        """What goes wrong with a new command; one number for each, so that a seed decides it."""
        drawn = self._rng.random()
        self._overheard.append((self._machine.scooter_id, request_id))
        for misdeed in Misdeed:
            drawn -= getattr(self._mishaps, misdeed)
            if drawn < 0:
                self._misdeeds[request_id] = misdeed
                if len(self._misdeeds) > _MISDEEDS_KEPT:
                    del self._misdeeds[next(iter(self._misdeeds))]
                return misdeed
        return None

    def _request_of_another(self) -> str:
        own = self._machine.scooter_id
        others = (request_id for who, request_id in reversed(self._overheard) if who != own)
        return next(others, _STRANGER)
