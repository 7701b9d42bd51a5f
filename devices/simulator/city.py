"""Where the simulated fleet rides: a city centre as corners joined by streets."""

import math
import random
from dataclasses import dataclass
from typing import Final, NamedTuple

_METRES_PER_DEGREE: Final = 111_320.0
_CROOKED: Final = 0.22
"""How far a corner may stand off the regular grid, as a share of a block."""
_MISSING: Final = 0.12
"""Share of the grid's streets that a park, a river or a railway takes away."""


class Corner(NamedTuple):
    """A crossing, in degrees."""

    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Street:
    """One block from corner to corner, by their numbers, in the direction of travel."""

    start: int
    end: int
    length_m: float
    heading_deg: float


class City:
    """A crooked street grid inside a bounding box; the same `seed` gives the same streets."""

    def __init__(
        self,
        seed: int,
        *,
        south: float = 52.500,
        west: float = 13.370,
        north: float = 52.535,
        east: float = 13.435,
        rows: int = 14,
        columns: int = 16,
    ) -> None:
        rng = random.Random(f"city {seed}")  # noqa: S311 - a map, not a secret
        self.south, self.west, self.north, self.east = south, west, north, east
        self._lon_m = _METRES_PER_DEGREE * math.cos(math.radians((south + north) / 2))
        tall, wide = (north - south) / rows, (east - west) / columns
        self.corners = [
            Corner(
                south + (row + 0.5 + rng.uniform(-_CROOKED, _CROOKED)) * tall,
                west + (column + 0.5 + rng.uniform(-_CROOKED, _CROOKED)) * wide,
            )
            for row in range(rows)
            for column in range(columns)
        ]
        self._beside: list[set[int]] = [set() for _ in self.corners]
        self._lay_streets(rng, rows, columns)

    def streets_from(self, corner: int) -> list[Street]:
        """Every street that leaves a corner; never empty."""
        return [self._street(corner, end) for end in sorted(self._beside[corner])]

    def place(self, street: Street, along_m: float) -> Corner:
        """The point `along_m` metres down a street."""
        share = min(1.0, along_m / street.length_m)
        start, end = self.corners[street.start], self.corners[street.end]
        return Corner(
            start.lat + (end.lat - start.lat) * share, start.lon + (end.lon - start.lon) * share
        )

    def _lay_streets(self, rng: random.Random, rows: int, columns: int) -> None:
        grid = [
            (row * columns + column, other)
            for row in range(rows)
            for column in range(columns)
            for other in (
                *((row * columns + column + 1,) if column + 1 < columns else ()),
                *(((row + 1) * columns + column,) if row + 1 < rows else ()),
            )
        ]
        for one, other in grid:
            self._beside[one].add(other)
            self._beside[other].add(one)
        for one, other in grid:
            # Three streets must stay at both ends, so that nobody rides into a dead end.
            crowded = min(len(self._beside[one]), len(self._beside[other])) > 3  # noqa: PLR2004
            if crowded and rng.random() < _MISSING:
                self._beside[one].discard(other)
                self._beside[other].discard(one)

    def _street(self, start: int, end: int) -> Street:
        one, other = self.corners[start], self.corners[end]
        north_m = (other.lat - one.lat) * _METRES_PER_DEGREE
        east_m = (other.lon - one.lon) * self._lon_m
        return Street(
            start=start,
            end=end,
            length_m=math.hypot(north_m, east_m),
            heading_deg=math.degrees(math.atan2(east_m, north_m)) % 360,
        )
