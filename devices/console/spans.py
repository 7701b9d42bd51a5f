"""Durations, moments, distances and counts, as people type and read them; pure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|min|s|m|h|d|w))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|min|s|m|h|d|w)")
_DISTANCE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(m|km)?")

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


class Span(NamedTuple):
    """From `start` up to, not including, `end`."""

    start: datetime
    end: datetime


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `1h30m`, `7d`; raises ValueError with a sentence for anything else."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration: write 90s, 15m, 1h or 7d")
    try:
        return timedelta(
            seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        )
    except OverflowError:
        raise ValueError(f"{text!r} is too long a duration") from None


def parse_moment(text: str, *, now: datetime) -> datetime:
    """RFC 3339, a date (its midnight), `now`, or how long before `now`: `1h`; UTC by default.

    Raises ValueError with a sentence for anything else.
    """
    if text == "now":
        return now
    try:
        if _DURATION.fullmatch(text):
            return now - parse_duration(text)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write 2026-11-01T08:30:00Z, 2026-11-01, now, or 1h for an "
            "hour ago"
        ) from None


def parse_distance(text: str) -> float:
    """Metres of `500m`, `1.5km` or `500`; raises ValueError with a sentence for anything else."""
    found = _DISTANCE.fullmatch(text)
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is no distance: write 500m or 1.5km")
    return float(found[1]) * (1000 if found[2] == "km" else 1)


def counted(count: int, one: str) -> str:
    """`1 scooter`, `2 scooters`, `0 scooters`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def rfc3339(moment: datetime) -> str:
    """UTC with milliseconds: `2026-11-01T08:30:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say_age(seconds: float) -> str:
    """How long ago, in one unit: `12 s`, `3 min`, `5 h`, `9 d`."""
    if seconds < 0:
        return "in the future"
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.0f} h"
    return f"{seconds / _DAY_S:.0f} d"
