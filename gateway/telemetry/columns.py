"""The columns of a state in Postgres, and how a Redis hash is spelt for COPY; pure."""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Final

import orjson

SNAPSHOT: Final = (
    *("received_at", "recorded_at"),
    *("position_at", "lat", "lon", "accuracy_m", "speed_kmh", "heading_deg"),
    *("battery_at", "battery_percent", "battery_mv", "range_m", "charging", "battery_id"),
    *("lock_at", "lock", "tipped_over"),
    *("device_at", "odometer_m", "signal_dbm", "firmware"),
    *("presence", "presence_at"),
)
"""Fields of the hash that are columns of `scooter_snapshots`, by the same names."""

STATE: Final = (*SNAPSHOT, "uptime_ms", "interval_s", "boot", "wake_s")
"""Fields of the hash that are columns of `scooter_state`."""

MS_COLUMNS: Final = frozenset(name for name in STATE if name.endswith("_at"))
_COLUMNS: Final = ("version", *STATE)
_HAS_COLUMN: Final = frozenset(_COLUMNS)


def _as_text(name: str) -> str:
    value = f"(extract(epoch FROM {name}) * 1000)::bigint" if name in MS_COLUMNS else name
    return f"'{name}', {value}::text"


WHOLE_STATE: Final = (
    "(fields || jsonb_strip_nulls(jsonb_build_object("
    + ", ".join(_as_text(name) for name in _COLUMNS)
    + ")))::text"
)
"""SQL over `scooter_state`: the whole hash as JSON, as Redis had it."""

_ODD: Final = re.compile(r"[\\\t\n\r]")
_ESCAPES: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def copy_line(scooter_id: str, names: tuple[str, ...], values: list[str]) -> str:
    """One line for COPY in text format: id, version, the columns of STATE, the other fields.

    Redis already holds decimal text, so nothing is parsed on the way; times stay in ms.
    """
    line, columns_of, others = _plan(names)
    columns = columns_of(values)
    text = "".join(columns)
    # Four searches take a fifth of the time of the expression, which next to nothing needs.
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        columns = tuple(_ODD.sub(lambda odd: _ESCAPES[odd[0]], each) for each in columns)
    fields = orjson.dumps({name: values[place] for name, place in others}).decode()
    return line % (scooter_id, *columns, fields.replace("\\", "\\\\"))


@lru_cache(maxsize=256)
def _plan(
    names: tuple[str, ...],
) -> tuple[str, Callable[[list[str]], tuple[str, ...]], list[tuple[str, int]]]:
    """The line with a place for each column that is there, how to take these from the values, and
    the places of the other fields: found once for all the scooters whose hashes have the same.
    """
    place_of = {name: place for place, name in enumerate(names)}
    places = [place_of[name] for name in _COLUMNS if name in place_of]
    line = "\t".join("%s" if name in place_of else "\\N" for name in _COLUMNS)
    others = [(name, at) for name, at in place_of.items() if name not in _HAS_COLUMN]
    return f"%s\t{line}\t%s\n", _taker(places), others


def _taker(places: list[int]) -> Callable[[list[str]], tuple[str, ...]]:
    """An `itemgetter` that gives a tuple for one place and for none, too."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)
