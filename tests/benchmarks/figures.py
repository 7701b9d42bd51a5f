"""What was measured: one median with its spread over repetitions, and the target it is held to."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `at_most` and `at_least` are the targets of the design, if any."""

    name: str
    what: str
    unit: str
    values: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median keeps to the target; None where there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def as_json(self) -> dict[str, Any]:
        """The figure with its median, spread and verdict."""
        return asdict(self) | {
            "value": self.value,
            "low": min(self.values),
            "high": max(self.values),
            "reached": self.reached,
        }


class Figures:
    """The figures of a run, in the order in which they were measured."""

    def __init__(self) -> None:
        self.all: list[Figure] = []

    def add(
        self,
        name: str,
        what: str,
        unit: str,
        values: Sequence[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Figure:
        """Book one figure; `values` has one number for each repetition."""
        figure = Figure(name, what, unit, tuple(values), at_most=at_most, at_least=at_least)
        self.all.append(figure)
        return figure

    def values(self) -> dict[str, float]:
        """The medians by name."""
        return {figure.name: figure.value for figure in self.all}


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """One ratio for each repetition: both were measured on the same load, one after the other."""
    return [one / other for one, other in zip(upper, lower, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of all are not above (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
