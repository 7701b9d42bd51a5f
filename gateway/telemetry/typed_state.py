"""A state's texts as the values they stand for; pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from gateway.telemetry.state_store import INTERNAL

TEXTS: Final = frozenset({"battery_id", "lock", "firmware", "presence"})
FLAGS: Final = frozenset({"charging", "tipped_over"})

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "position": ("lat", "lon", "accuracy_m", "speed_kmh", "heading_deg"),
    "battery": ("battery_percent", "battery_mv", "range_m", "charging", "battery_id"),
    "lock": ("lock", "tipped_over"),
    "device": ("odometer_m", "signal_dbm", "firmware"),
}
"""The four groups of a report; each has its own time, `<group>_at`."""

Value = str | bool | int | float | datetime | None


def typed_state(fields: Mapping[str, str | None]) -> dict[str, Value]:
    """The fields of a hash or of a change with their types, but for those of the scripts alone.

    `…_at` is a datetime (UTC), and beside it `…_at_ms` is the same as ms since epoch.
    """
    state: dict[str, Value] = {}
    for name, text in sorted(fields.items()):
        if name in INTERNAL or name.endswith("_order") or name == "uptime_boot":
            continue
        state[name] = None if text is None else _typed(name, text)
        if name.endswith("_at"):
            state[f"{name}_ms"] = None if text is None else int(text)
    return state


def ages_s(state: Mapping[str, Value], *, now: datetime) -> dict[str, float]:
    """Seconds since each group was measured, and since the newest report (`received`)."""
    ages = {}
    for name in (*GROUPS, "received"):
        at = state.get(f"{name}_at")
        if isinstance(at, datetime):
            ages[name] = round((now - at).total_seconds(), 3)
    return ages


def _typed(name: str, text: str) -> Value:
    if name.endswith("_at"):
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    if name in TEXTS:
        return text
    if name in FLAGS:
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else float(text)
