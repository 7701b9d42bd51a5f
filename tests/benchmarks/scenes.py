"""What every scene shares: the stage, the figures, and how much is measured."""

from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.figures import Figures
from tests.benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured; `quick` shows that everything runs, its figures are rough."""

    repetitions: int
    messages: int
    baseline_messages: int
    fleet: int
    many: int
    probes: int

    def laps(self, scooters: int) -> int:
        """Reports of each scooter that make about `messages`."""
        return max(1, round(self.messages / scooters))


FULL = Scale(3, 20_000, 3_000, 5_000, 100_000, 200)
QUICK = Scale(1, 6_000, 500, 2_000, 10_000, 60)


@dataclass(slots=True)
class Scene:
    """Handed from scene to scene; `details` goes into the JSON beside the figures."""

    stage: Stage
    scale: Scale
    figures: Figures = field(default_factory=Figures)
    details: dict[str, Any] = field(default_factory=dict)
    per_second: float = 0.0
    """The gateway's highest rate, once it was measured."""
    memory_mib: float = 0.0
    """What the gateway held after the largest fleet's load, once that was measured."""
