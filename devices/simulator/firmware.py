"""One simulated scooter's firmware: what it says and when it is away; no I/O, no clock."""

import random
from enum import StrEnum
from typing import Final, Literal

import orjson

from devices.contract.messages import GROUPS, MESSAGE_MAX, PAYLOAD_MAX
from devices.simulator.city import City
from devices.simulator.duty import Duty, Overheard
from devices.simulator.model import Clock, Model
from devices.simulator.outbox import Outbox
from devices.simulator.plan import FleetPlan, Totals, Witness
from devices.simulator.readings import Fields, read_group
from devices.simulator.ride import Doing, Ride

_RESEND_AFTER_S: Final = 20.0
_LONGEST_NAP_S: Final = 2.0
_BUSY_NAP_S: Final = 0.3
_BRACKETS: Final = len(b"[]")
"""Room that a report leaves for the batch it may end up in."""


class Link(StrEnum):
    """Whether the scooter wants a connection now, and if not, why."""

    UP = "up"
    NO_COVERAGE = "no_coverage"
    ASLEEP = "asleep"
    REBOOTING = "rebooting"
    OFF = "off"

    @property
    def is_running(self) -> bool:
        """Whether the scooter is awake, with a connection or without."""
        return self in (Link.UP, Link.NO_COVERAGE)


class Firmware:
    """One scooter. Call `step` at least every `due_in_s()`, send what `outbox` has next.

    All times that go in are ms since epoch and never run backwards; `boot` is its first boot
    counter. The same arguments and the same steps give the same messages.
    """

    def __init__(
        self,
        scooter_id: str,
        plan: FleetPlan,
        city: City,
        *,
        boot: int,
        now_ms: int,
        totals: Totals | None = None,
        command_key: bytes | None = None,
        witness: Witness | None = None,
        overheard: Overheard | None = None,
    ) -> None:
        self.scooter_id = scooter_id
        self._plan = plan
        self._rng = random.Random(f"{plan.seed} {scooter_id}")  # noqa: S311 - not a secret
        self.model = Model.draw(self._rng, plan.small_share, plan.mishaps)
        self.ride = Ride(city, self._rng, falls_per_h=plan.mishaps.falls_per_h, rides=plan.rides)
        self.totals = totals or Totals()
        self.outbox = Outbox(
            self.totals,
            small=self.model.small,
            resend_after_ms=round(_RESEND_AFTER_S * 1000 / plan.pace),
        )
        self._duty = Duty(
            self,
            key=command_key,
            mishaps=plan.mishaps.commands,
            rng=random.Random(f"{plan.seed} {scooter_id} commands"),  # noqa: S311 - not a secret
            totals=self.totals,
            witness=witness,
            overheard=overheard,
        )
        self.link = Link.UP
        self._freezes = False
        self._riding_s: float = self._rng.choice((2, 3, 4, 5))
        self._parked_s: float = self._rng.choice((12, 15, 20))
        self.now_ms = now_ms
        self._clock_s = 0.0
        self._away_until_s = 0.0
        self._report_at_s = 0.0
        self._reports = 0
        self._wanted = set(GROUPS)
        self._lock_told: tuple[str, bool] | None = None
        self._start(boot)

    def step(self, now_ms: int) -> None:
        """Let the time since the last step pass: ride, fall, lose coverage, report."""
        passed_s = (now_ms - self.now_ms) / 1000 * self._plan.pace
        self.now_ms = now_ms
        self._clock_s += passed_s
        self._come_back() if self.link is not Link.UP else self._suffer(passed_s)
        if not self.link.is_running:
            return
        for happening in self.ride.advance(passed_s):
            self._tell(happening.ev, happening.detail)
        self._duty.step()
        if self._lock_now() != self._lock_told or self._clock_s >= self._report_at_s:
            self._report()

    def due_in_s(self) -> float:
        """Real seconds until the next step is due."""
        nap_s = _BUSY_NAP_S if self._duty.is_busy else _LONGEST_NAP_S
        left_s = min(self._report_at_s - self._clock_s, nap_s)
        return max(0.01, left_s / self._plan.pace)

    def hear_command(self, payload: bytes, *, retained: bool, now_ms: int) -> None:
        """A message on the commands topic; answers are in the outbox, at once or after a `step`."""
        self.step(now_ms)
        if self.link.is_running:
            self._duty.hear(payload, retained=retained)

    def frozen_for_s(self) -> float | None:
        """Real seconds for which the connection is frozen from now on; asked once a freeze."""
        freezes, self._freezes = self._freezes, False
        return self._plan.mishaps.commands.freeze_s if freezes else None

    @property
    def up_ms(self) -> int:
        """Ms since the boot."""
        return self.now_ms - self._booted_ms

    def order(self) -> Fields:
        """The number of one more message, and its time where there is a clock."""
        self._seq += 1
        ts_ms = self._ts_ms()
        clock: Fields = {} if ts_ms is None else {"ts": ts_ms}
        return clock | {"boot": self.boot, "seq": self._seq}

    def group(self, name: str) -> Fields:
        """One telemetry group as it is now."""
        return read_group(name, self.ride, self.model, self._rng, fix=self._has_fix())

    def report_all(self) -> None:
        """Tell every group now."""
        self._wanted = set(GROUPS)
        self._report()

    def set_intervals(self, *, riding_s: float | None, parked_s: float | None) -> None:
        """Real seconds between reports; None leaves what it was."""
        pace = self._plan.pace
        self._riding_s = self._riding_s if riding_s is None else riding_s * pace
        self._parked_s = self._parked_s if parked_s is None else parked_s * pace

    def lose_power(self, *, switched_off: bool) -> None:
        """Reboot now; switched off, it is some minutes before somebody presses the button."""
        self.totals.reboots += 1
        for_s = self._rng.uniform(60, 180) if switched_off else 3.0
        self._leave(Link.OFF if switched_off else Link.REBOOTING, for_s)
        self._duty.reboot()
        self.outbox.forget_acks()
        if not self.model.keeps_reports:
            self.outbox.forget_reports()

    def dial(self) -> bytes:
        """Count a CONNECT; returns the will it carries."""
        self._conn += 1
        return _json({"s": "lost", "boot": self.boot, "conn": self._conn})

    def birth(self) -> bytes:
        """What the scooter says first on a new connection."""
        return _json(
            {
                "s": "online",
                "boot": self.boot,
                "conn": self._conn,
                "up": self.up_ms,
                "ivl": self._real_s(self._interval_s()),
                "fw": self.model.version,
            }
        )

    def goodbye(self, s: Literal["sleeping", "offline"]) -> bytes:
        """What it says before it disconnects on purpose."""
        said: Fields = {"s": s, "boot": self.boot, "conn": self._conn, "up": self.up_ms}
        if s == "sleeping":
            said["wake"] = self._real_s(max(0.0, self._away_until_s - self._clock_s))
        return _json(said)

    def connected(self) -> None:
        """The birth is out: from now on reports are live, and the next one is whole."""
        self.outbox.online = True
        self._wanted = set(GROUPS)
        self._report_at_s = self._clock_s

    def _start(self, boot: int) -> None:
        self.boot, self._seq, self._conn, self._events = boot, 0, 0, 0
        self._booted_ms = self.now_ms
        self._fix_at_s = self._clock_s + self._rng.uniform(0, 8)
        self._clock_set_at_s = self._clock_s + self._rng.uniform(20, 60)

    def _suffer(self, passed_s: float) -> None:
        mishaps = self._plan.mishaps
        if self._strikes(mishaps.reboots_per_h, passed_s):
            self.lose_power(switched_off=False)
        elif self._strikes(mishaps.coverage_losses_per_h, passed_s):
            self.totals.coverage_losses += 1
            self._leave(Link.NO_COVERAGE, self._rng.uniform(15, 60))
        elif self._may_sleep() and self._strikes(mishaps.sleeps_per_h, passed_s):
            self.totals.sleeps += 1
            self._leave(Link.ASLEEP, self._rng.uniform(20, 90))
        elif self._strikes(mishaps.commands.freezes_per_h, passed_s):
            self.totals.freezes += 1
            self._freezes = True

    def _may_sleep(self) -> bool:
        answered = not self._duty.is_busy and not self.outbox.has_acks
        return self.ride.doing is Doing.PARKED and answered

    def _strikes(self, per_h: float, passed_s: float) -> bool:
        return per_h > 0 and self._rng.random() < per_h * passed_s / 3600

    def _leave(self, link: Link, for_s: float) -> None:
        self.link = link
        self._away_until_s = self._clock_s + for_s

    def _come_back(self) -> None:
        if self._clock_s < self._away_until_s:
            return
        if self.link in (Link.REBOOTING, Link.OFF):
            self._start(self.boot + 1)
        self.link = Link.UP

    def _tell(self, ev: str, detail: str | None) -> None:
        self._events += 1
        event_id = f"{self.boot}-{self._events}"
        said: Fields = {"id": event_id, "ev": ev, **self.order()}
        if self._clock_s >= self._fix_at_s:
            where = self.ride.position
            said |= {"lat": round(where.lat, 6), "lon": round(where.lon, 6)}
        if detail is not None:
            said["d"] = detail
        self.outbox.keep_event(event_id, _json(said))

    def _report(self) -> None:
        self._reports += 1
        self._wanted.add("position")
        if self._lock_now() != self._lock_told or self._reports % 4 == 0:
            self._wanted |= {"lock", "battery"}
        if self._reports % 8 == 0:
            self._wanted.add("device")
        if not self._has_fix() and not self.model.small:
            self._wanted.discard("position")
        self._lock_told = self._lock_now()
        self._report_at_s = self._clock_s + self._interval_s()
        while self._wanted:
            self._send_what_fits()

    def _send_what_fits(self) -> None:
        """One report with as many of the wanted groups as its client can send at once."""
        most = (PAYLOAD_MAX if self.model.small else MESSAGE_MAX) - _BRACKETS
        said = self.order() | {
            "up": self.up_ms,
            "ivl": self._real_s(self._interval_s()),
        }
        told: set[str] = set()
        for group in ("lock", "position", "battery", "device"):
            more = said | self.group(group) if group in self._wanted else said
            if group in self._wanted and (not told or len(_json(more)) <= most):
                said = more
                told.add(group)
        self._wanted -= told
        self.outbox.keep_report(_json(said))

    def _lock_now(self) -> tuple[str, bool]:
        return self.ride.lock, self.ride.tipped_over

    def _has_fix(self) -> bool:
        return self._clock_s >= self._fix_at_s

    def _ts_ms(self) -> int | None:
        is_set = self._clock_s >= self._clock_set_at_s
        clock = Clock.RIGHT if is_set else self.model.clock
        return clock.reads_ms(self.now_ms, self.up_ms)

    def _interval_s(self) -> float:
        return self._parked_s if self.ride.doing is Doing.PARKED else self._riding_s

    def _real_s(self, simulated_s: float) -> float:
        seconds = round(simulated_s / self._plan.pace, 1)
        return int(seconds) if seconds == int(seconds) else seconds


def _json(said: Fields) -> bytes:
    return orjson.dumps(said)
