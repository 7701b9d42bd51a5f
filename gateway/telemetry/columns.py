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

# Neither can be in a text that Redis gave us and Postgres takes.
_BETWEEN: Final = "\0"
_MISSING: Final = "\udfff"
_ODD: Final = re.compile(r"[\\\t\n\r]")
_ESCAPES: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def copy_line(scooter_id: str, names: tuple[str, ...], values: list[str]) -> str:
    """One line for COPY in text format: id, version, the columns of STATE, the other fields.

    Redis already holds decimal text, so nothing is parsed on the way; times stay in ms.
    """
    columns_of, others = _places(names)
    fields = orjson.dumps({name: values[place] for name, place in others}).decode()
    fields = fields.replace("\\", "\\\\")
    columns = _BETWEEN.join(columns_of([*values, _MISSING]))
    if _ODD.search(columns):
        columns = _ODD.sub(lambda odd: _ESCAPES[odd[0]], columns)
    columns = columns.replace(_BETWEEN, "\t").replace(_MISSING, "\\N")
    return f"{scooter_id}\t{columns}\t{fields}\n"


@lru_cache(maxsize=256)
def _places(
    names: tuple[str, ...],
) -> tuple[Callable[[list[str]], tuple[str, ...]], list[tuple[str, int]]]:
    """How to take the columns from the values and one for what is missing, and the places of the
    other fields: found once for all the scooters whose hashes have the same fields.
    """
    place_of = {name: place for place, name in enumerate(names)}
    columns_of = itemgetter(*[place_of.get(name, len(names)) for name in _COLUMNS])
    return columns_of, [(name, at) for name, at in place_of.items() if name not in _HAS_COLUMN]
