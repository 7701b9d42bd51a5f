"""One simulated scooter's firmware: what it says and when it is away; no I/O, no clock."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import orjson

from devices.contract.messages import GROUPS, MESSAGE_MAX, PAYLOAD_MAX
from devices.simulator.city import City
from devices.simulator.outbox import Outbox
from devices.simulator.plan import FleetPlan, Mishaps, Totals
from devices.simulator.ride import Doing, Ride

_RESEND_AFTER_S: Final = 20.0
_LONGEST_NAP_S: Final = 2.0
_BRACKETS: Final = len(b"[]")
"""Room that a report leaves for the batch it may end up in."""

Fields = dict[str, object]


class Link(StrEnum):
    """Whether the scooter wants a connection now, and if not, why."""

    UP = "up"
    NO_COVERAGE = "no_coverage"
    ASLEEP = "asleep"
    REBOOTING = "rebooting"


class Clock(StrEnum):
    """What the scooter's clock says after a boot, before it is set."""

    RIGHT = "right"
    UNSET = "unset"
    AHEAD = "ahead"
    EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class Model:
    """What kind of scooter it is: its MQTT client, its clock, its flash."""

    small: bool
    mqtt: Literal["3.1", "3.1.1", "5"]
    clock: Clock
    keeps_reports: bool
    version: str

    @classmethod
    def draw(cls, rng: random.Random, small_share: float, mishaps: Mishaps) -> "Model":
        """A model by the plan's shares."""
        small = rng.random() < small_share
        odd = rng.random()
        clock = Clock.RIGHT
        if odd < mishaps.clockless_share:
            clock = Clock.UNSET
        elif odd < mishaps.clockless_share + mishaps.wrong_clock_share:
            clock = rng.choice((Clock.AHEAD, Clock.EPOCH))
        return cls(
            small=small,
            mqtt=rng.choice(("3.1", "3.1.1", "3.1.1")) if small else rng.choice(("3.1.1", "5")),
            clock=clock,
            keeps_reports=not small,
            version=rng.choice(("2.3.0", "2.4.1", "2.4.2")),
        )


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
    ) -> None:
        self.scooter_id = scooter_id
        self._plan = plan
        self._rng = random.Random(f"{plan.seed} {scooter_id}")  # noqa: S311 - not a secret
        self.model = Model.draw(self._rng, plan.small_share, plan.mishaps)
        self.ride = Ride(city, self._rng, falls_per_h=plan.mishaps.falls_per_h)
        self.totals = totals or Totals()
        self.outbox = Outbox(
            self.totals,
            small=self.model.small,
            resend_after_ms=round(_RESEND_AFTER_S * 1000 / plan.pace),
        )
        self.link = Link.UP
        self._riding_s = self._rng.choice((2, 3, 4, 5))
        self._parked_s = self._rng.choice((12, 15, 20))
        self._now_ms = now_ms
        self._clock_s = 0.0
        self._away_until_s = 0.0
        self._report_at_s = 0.0
        self._reports = 0
        self._wanted = set(GROUPS)
        self._lock_told: tuple[str, bool] | None = None
        self._start(boot)

    def step(self, now_ms: int) -> None:
        """Let the time since the last step pass: ride, fall, lose coverage, report."""
        passed_s = (now_ms - self._now_ms) / 1000 * self._plan.pace
        self._now_ms = now_ms
        self._clock_s += passed_s
        self._come_back() if self.link is not Link.UP else self._suffer(passed_s)
        if self.link in (Link.ASLEEP, Link.REBOOTING):
            return
        for happening in self.ride.advance(passed_s):
            self._tell(happening.ev, happening.detail)
        if self._lock_now() != self._lock_told or self._clock_s >= self._report_at_s:
            self._report()

    def due_in_s(self) -> float:
        """Real seconds until the next step is due."""
        left_s = min(self._report_at_s - self._clock_s, _LONGEST_NAP_S)
        return max(0.01, left_s / self._plan.pace)

    def dial(self) -> bytes:
        """Count a CONNECT; returns the will it carries."""
        self._conn += 1
        return _json({"s": "lost", "boot": self._boot, "conn": self._conn})

    def birth(self) -> bytes:
        """What the scooter says first on a new connection."""
        return _json(
            {
                "s": "online",
                "boot": self._boot,
                "conn": self._conn,
                "up": self._up_ms(),
                "ivl": self._real_s(self._interval_s()),
                "fw": self.model.version,
            }
        )

    def goodbye(self, s: Literal["sleeping", "offline"]) -> bytes:
        """What it says before it disconnects on purpose."""
        said: Fields = {"s": s, "boot": self._boot, "conn": self._conn, "up": self._up_ms()}
        if s == "sleeping":
            said["wake"] = self._real_s(max(0.0, self._away_until_s - self._clock_s))
        return _json(said)

    def connected(self) -> None:
        """The birth is out: from now on reports are live, and the next one is whole."""
        self.outbox.online = True
        self._wanted = set(GROUPS)
        self._report_at_s = self._clock_s

    def _start(self, boot: int) -> None:
        self._boot, self._seq, self._conn, self._events = boot, 0, 0, 0
        self._booted_ms = self._now_ms
        self._fix_at_s = self._clock_s + self._rng.uniform(0, 8)
        self._clock_set_at_s = self._clock_s + self._rng.uniform(20, 60)

    def _suffer(self, passed_s: float) -> None:
        mishaps = self._plan.mishaps
        if self._strikes(mishaps.reboots_per_h, passed_s):
            self.totals.reboots += 1
            self._leave(Link.REBOOTING, 3.0)
            if not self.model.keeps_reports:
                self.outbox.forget_reports()
        elif self._strikes(mishaps.coverage_losses_per_h, passed_s):
            self.totals.coverage_losses += 1
            self._leave(Link.NO_COVERAGE, self._rng.uniform(15, 60))
        elif self.ride.doing is Doing.PARKED and self._strikes(mishaps.sleeps_per_h, passed_s):
            self.totals.sleeps += 1
            self._leave(Link.ASLEEP, self._rng.uniform(20, 90))

    def _strikes(self, per_h: float, passed_s: float) -> bool:
        return self._rng.random() < per_h * passed_s / 3600

    def _leave(self, link: Link, for_s: float) -> None:
        self.link = link
        self._away_until_s = self._clock_s + for_s

    def _come_back(self) -> None:
        if self._clock_s < self._away_until_s:
            return
        if self.link is Link.REBOOTING:
            self._start(self._boot + 1)
        self.link = Link.UP

    def _tell(self, ev: str, detail: str | None) -> None:
        self._events += 1
        event_id = f"{self._boot}-{self._events}"
        said: Fields = {"id": event_id, "ev": ev, **self._order()}
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
        said = self._order() | {
            "up": self._up_ms(),
            "ivl": self._real_s(self._interval_s()),
        }
        told: set[str] = set()
        for group in ("lock", "position", "battery", "device"):
            more = said | self._group(group) if group in self._wanted else said
            if group in self._wanted and (not told or len(_json(more)) <= most):
                said = more
                told.add(group)
        self._wanted -= told
        self.outbox.keep_report(_json(said))

    def _order(self) -> Fields:
        self._seq += 1
        ts_ms = self._ts_ms()
        clock: Fields = {} if ts_ms is None else {"ts": ts_ms}
        return clock | {"boot": self._boot, "seq": self._seq}

    def _group(self, group: str) -> Fields:
        ride = self.ride
        match group:
            case "position":
                return self._position()
            case "battery":
                return {
                    "batt": round(ride.battery_percent),
                    "mv": ride.battery_mv,
                    "rng": ride.range_m,
                    "chg": False,
                    "bid": ride.battery_id,
                }
            case "lock":
                return {"lock": ride.lock, "tip": ride.tipped_over}
        signal_dbm = self._rng.randint(-108, -61)
        return {"odo": round(ride.odometer_m), "sig": signal_dbm, "fw": self.model.version}

    def _position(self) -> Fields:
        if not self._has_fix():
            return {"lat": 0, "lon": 0}
        where = self.ride.position
        return {
            "lat": round(where.lat, 6),
            "lon": round(where.lon, 6),
            "acc": round(self._rng.uniform(2.5, 9), 1),
            "spd": round(self.ride.speed_kmh, 1),
            "hdg": round(self.ride.street.heading_deg),
        }

    def _lock_now(self) -> tuple[str, bool]:
        return self.ride.lock, self.ride.tipped_over

    def _has_fix(self) -> bool:
        return self._clock_s >= self._fix_at_s

    def _ts_ms(self) -> int | None:
        if self.model.clock is Clock.RIGHT or self._clock_s >= self._clock_set_at_s:
            return self._now_ms
        match self.model.clock:
            case Clock.AHEAD:
                return self._now_ms + 2 * 3_600_000
            case Clock.EPOCH:
                return self._up_ms()
        return None

    def _up_ms(self) -> int:
        return self._now_ms - self._booted_ms

    def _interval_s(self) -> float:
        return self._parked_s if self.ride.doing is Doing.PARKED else self._riding_s

    def _real_s(self, simulated_s: float) -> float:
        seconds = round(simulated_s / self._plan.pace, 1)
        return int(seconds) if seconds == int(seconds) else seconds


def _json(said: Fields) -> bytes:
    return orjson.dumps(said)
