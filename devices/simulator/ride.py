"""What happens to one scooter's body: unlocked, ridden, parked, commanded, tipped over, charged."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from devices.simulator.city import City, Corner, Street

_BOLT_S: Final = 1.5
_TICK_S: Final = 1.0
_PERCENT_PER_METRE: Final = 100 / 25_000
_PERCENT_PER_PARKED_S: Final = 0.2 / 3600
_EMPTY_MV: Final = 32_000
_FULL_MV: Final = 42_000
_LOW_PERCENT: Final = 12.0
_RIDING_AT_FIRST: Final = 0.4
_JAMMED_S: Final = 60.0
_DYING_PERCENT: Final = 3.0


class Doing(StrEnum):
    """What a scooter is doing; the bolt of its lock takes a moment either way."""

    PARKED = "parked"
    UNLOCKING = "unlocking"
    READY = "ready"
    RIDING = "riding"
    LOCKING = "locking"
    JAMMED = "jammed"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something worth an event: its type, and a short detail or none."""

    ev: str
    detail: str | None = None


class Ride:
    """One scooter on its streets. Time passes only in `advance`, and `rng` decides everything.

    Without `rides` nobody comes to take it: it stays locked until it is told otherwise.
    """

    def __init__(
        self, city: City, rng: random.Random, *, falls_per_h: float = 0.0, rides: bool = True
    ) -> None:
        self._city = city
        self._rng = rng
        self._falls_per_s = falls_per_h / 3600
        self._rides = rides
        self._on_trip = False
        self._sticks = False
        self._by_rider = True
        self._street = rng.choice(city.streets_from(rng.randrange(len(city.corners))))
        self._along_m = rng.uniform(0, self._street.length_m)
        self._target_kmh = 0.0
        self._low_told = False
        self.doing = Doing.PARKED
        self._left_s = rng.uniform(5, 240)
        if rng.random() < _RIDING_AT_FIRST and rides:
            self.doing, self._target_kmh, self._on_trip = Doing.RIDING, 18.0, True
        self.speed_kmh = 0.0
        self.limit_kmh = 25.0
        self.battery_percent = rng.uniform(15, 100)
        self.battery_id = self._new_battery_id()
        self.odometer_m = rng.uniform(20_000, 4_000_000)
        self.tipped_over = False

    @property
    def position(self) -> Corner:
        """Where the scooter stands, in degrees; always on a street."""
        return self._city.place(self._street, self._along_m)

    @property
    def street(self) -> Street:
        """The block it is on."""
        return self._street

    @property
    def lock(self) -> str:
        """The lock as the contract names it."""
        match self.doing:
            case Doing.PARKED:
                return "locked"
            case Doing.READY | Doing.RIDING:
                return "unlocked"
            case Doing.JAMMED:
                return "jammed"
        return "moving"

    @property
    def battery_mv(self) -> int:
        """Millivolts, from the charge alone."""
        return round(_EMPTY_MV + (_FULL_MV - _EMPTY_MV) * self.battery_percent / 100)

    @property
    def range_m(self) -> int:
        """How far the charge still goes."""
        return round(self.battery_percent / _PERCENT_PER_METRE)

    def objection(self, command: str) -> str | None:
        """Why this command cannot be obeyed at this moment, as an ack's `error` says it."""
        stands = command in ("lock", "reboot", "power_off", "unlock_battery")
        if stands and self.speed_kmh > 0:
            return "moving"
        if command in ("unlock", "lock") and self.lock == "moving":
            return "busy"
        if command in ("unlock", "unlock_battery") and self.battery_percent < _DYING_PERCENT:
            return "low_battery"
        return None

    def turn_bolt(self, wanted: str, *, sticks: bool = False) -> None:
        """Begin to make the lock `locked` or `unlocked`; it ends so, or `jammed` if it sticks."""
        self._sticks = sticks
        if wanted != self.lock:
            self._target_kmh = 0.0
            self._begin(Doing.UNLOCKING if wanted == "unlocked" else Doing.LOCKING, _BOLT_S)
            self._by_rider = False

    def open_battery(self) -> None:
        """Somebody is there to swap it."""
        self._low_told = True
        self._left_s = min(self._left_s, 5.0)

    def advance(self, for_s: float) -> list[Happening]:
        """Let `for_s` simulated seconds pass; returns what happened in them, in order."""
        happenings: list[Happening] = []
        while for_s > 0:
            tick_s = min(for_s, _TICK_S)
            for_s -= tick_s
            happenings += self._tick(tick_s)
        return happenings

    def _tick(self, tick_s: float) -> list[Happening]:
        self._left_s -= tick_s
        match self.doing:
            case Doing.RIDING:
                return self._roll(tick_s)
            case Doing.PARKED:
                return self._stand(tick_s)
            case _ if self._left_s <= 0:
                return self._end_of_waiting()
        return []

    def _end_of_waiting(self) -> list[Happening]:
        match self.doing:
            case Doing.UNLOCKING | Doing.LOCKING if self._sticks:
                self._begin(Doing.JAMMED, _JAMMED_S)
                return [Happening("fault", "lock")]
            case Doing.UNLOCKING if not self._by_rider:
                self._begin(Doing.READY, self._rng.uniform(5, 30))
            case Doing.UNLOCKING:
                return self._set_off()
            case Doing.READY if self._rides:
                return self._set_off()
            case Doing.LOCKING:
                self._begin(Doing.PARKED, self._rng.uniform(20, 300))
                was_on_trip, self._on_trip = self._on_trip, False
                return [Happening("trip_end")] if was_on_trip else []
            case Doing.JAMMED:
                self._begin(Doing.PARKED, self._rng.uniform(20, 300))
        return []

    def _set_off(self) -> list[Happening]:
        self._begin(Doing.RIDING, self._rng.uniform(90, 480))
        self._target_kmh = min(18.0, self.limit_kmh)
        self._on_trip = True
        return [Happening("trip_start")]

    def _begin(self, doing: Doing, for_s: float) -> None:
        self.doing = doing
        self._left_s = for_s

    def _stand(self, tick_s: float) -> list[Happening]:
        self._drain(_PERCENT_PER_PARKED_S * tick_s)
        if self._rng.random() < self._falls_per_s * tick_s and not self.tipped_over:
            self.tipped_over = True
            self._left_s = max(self._left_s, self._rng.uniform(20, 90))
            return [Happening("fall")]
        if self._left_s > 0:
            return []
        if self.tipped_over:
            self.tipped_over = False
            self._left_s = self._rng.uniform(5, 60)
            return []
        if self._low_told or self.battery_percent <= _LOW_PERCENT:
            return self._swap_battery()
        if self._rides:
            self._sticks, self._by_rider = False, True
            self._begin(Doing.UNLOCKING, _BOLT_S)
        return []

    def _swap_battery(self) -> list[Happening]:
        self.battery_percent = self._rng.uniform(96, 100)
        self.battery_id = self._new_battery_id()
        self._low_told = False
        self._left_s = self._rng.uniform(20, 120)
        return [Happening("battery_charged", self.battery_id)]

    def _roll(self, tick_s: float) -> list[Happening]:
        if self._rng.random() < tick_s / 12:
            wish_kmh = self._rng.choice((0.0, 12.0, 18.0, 20.0, 22.0, 25.0))
            self._target_kmh = min(wish_kmh, self.limit_kmh)
        most_change = 6.0 * tick_s
        change = self._target_kmh - self.speed_kmh
        self.speed_kmh += max(-most_change, min(most_change, change))
        rolled_m = self.speed_kmh / 3.6 * tick_s
        self.odometer_m += rolled_m
        self._drain(_PERCENT_PER_METRE * rolled_m)
        self._along_m += rolled_m
        while self._along_m >= self._street.length_m:
            self._turn()
        low = self.battery_percent <= _LOW_PERCENT and not self._low_told
        if low or self._left_s <= 0:
            self._target_kmh = self.speed_kmh = 0.0
            self._sticks = False
            self._begin(Doing.LOCKING, _BOLT_S)
        if not low:
            return []
        self._low_told = True
        return [Happening("battery_low", f"{self.battery_percent:.0f}%")]

    def _turn(self) -> None:
        """Take the next street: mostly straight on, never back."""
        self._along_m -= self._street.length_m
        ahead = [
            street
            for street in self._city.streets_from(self._street.end)
            if street.end != self._street.start
        ]
        before = self._street.heading_deg

        def turned_deg(street: Street) -> float:
            return abs((street.heading_deg - before + 180) % 360 - 180)

        straight = min(ahead, key=turned_deg)
        self._street = straight if self._rng.random() < 0.6 else self._rng.choice(ahead)  # noqa: PLR2004

    def _drain(self, percent: float) -> None:
        self.battery_percent = max(0.0, self.battery_percent - percent)

    def _new_battery_id(self) -> str:
        return f"B{self._rng.randrange(10**6):06d}"
