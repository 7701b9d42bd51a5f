"""The columns of a state in Postgres, and how a Redis hash is spelt for COPY; pure."""

from typing import Final

import orjson

from gateway.telemetry.state_store import State

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
_TEXT: Final = ("battery_id", "lock", "firmware", "presence")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_line(scooter_id: str, state: State) -> str:
    """One line for COPY in text format: id, version, the columns of STATE, the whole hash.

    Redis already holds decimal text, so nothing is parsed on the way; times stay in ms.
    """
    texts = dict(state)
    for name in _TEXT:
        if name in texts:
            texts[name] = texts[name].translate(_ESCAPES)
    fields = orjson.dumps(state).decode().replace("\\", "\\\\")
    columns = "\t".join([texts.get(name, "\\N") for name in _COLUMNS])
    if columns.count("\t") != len(_COLUMNS) - 1 or "\n" in columns or "\r" in columns:
        columns = "\t".join([_escaped(state.get(name)) for name in _COLUMNS])
    return f"{scooter_id}\t{columns}\t{fields}\n"


def _escaped(text: str | None) -> str:
    """For a hash that someone else's hand was in: Postgres then sees what it holds, and refuses."""
    return "\\N" if text is None else text.translate(_ESCAPES)
