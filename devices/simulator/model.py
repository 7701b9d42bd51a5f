"""What kind of scooter it is: its MQTT client, its clock, its flash."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from devices.simulator.plan import Mishaps

_WRONG_BY_MS: Final = 86_400_000


class Clock(StrEnum):
    """What the scooter's clock says after a boot, before it is set."""

    RIGHT = "right"
    UNSET = "unset"
    AHEAD = "ahead"
    BEHIND = "behind"
    EPOCH = "epoch"

    def reads_ms(self, now_ms: int, up_ms: int) -> int | None:
        """Ms since epoch as this clock has them; None while it was never set."""
        match self:
            case Clock.RIGHT:
                return now_ms
            case Clock.UNSET:
                return None
            case Clock.AHEAD:
                return now_ms + _WRONG_BY_MS
            case Clock.BEHIND:
                return now_ms - _WRONG_BY_MS
        return up_ms


@dataclass(frozen=True, slots=True)
class Model:
    """A scooter as it left the factory."""

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
            clock = rng.choice((Clock.AHEAD, Clock.BEHIND, Clock.EPOCH))
        return cls(
            small=small,
            mqtt=rng.choice(("3.1", "3.1.1", "3.1.1")) if small else rng.choice(("3.1.1", "5")),
            clock=clock,
            keeps_reports=not small,
            version=rng.choice(("2.3.0", "2.4.1", "2.4.2")),
        )
