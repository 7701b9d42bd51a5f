"""What the final state of a scooter must be, whatever the order of arrival: an oracle; pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from devices.contract.messages import GROUPS
from gateway.telemetry.scripts import FOLDED
from tests.telemetry import NOW_MS

Fields = dict[str, Any]

PUBLIC = (
    *(name for names in FOLDED.values() for name in names.values()),
    *(f"{group}_at" for group in GROUPS),
    *(f"{group}_order" for group in FOLDED),
    *("report_order", "recorded_at", "boot", "uptime_ms", "uptime_boot"),
)
"""The fields of a state that describe the scooter, and the orders."""


class Birth(NamedTuple):
    """A live birth; reports are plain dictionaries."""

    fields: Fields


def believed(ts: int | None) -> int:
    return ts if ts is not None and 1_577_836_800_000 <= ts <= NOW_MS + 60_000 else 0


def final_state(
    ranking: Sequence[int], reports: Sequence[Fields], births: Sequence[Birth]
) -> Fields:
    """The public fields after all of it, when later boots in `ranking` are newer."""
    born = [birth.fields for birth in births]
    state: Fields = {}
    for group, names in FOLDED.items():
        having = [report for report in reports if any(wire in report for wire in names)]
        if group == "interval":  # what a birth says comes before the reports of its boot
            having += [
                {"boot": told["boot"], "seq": -1, "ivl": told["ivl"]}
                for told in {t["boot"]: t for t in born if "ivl" in t}.values()
            ]
        if having:
            newest = _newest(having, ranking)
            state |= {name: _text(newest.get(wire)) for wire, name in names.items()}
            known = "".join(str(int(newest.get(wire) is not None)) for wire in names)
            state[f"{group}_order"] = f"{_order(newest)}:{known}"
            if group in GROUPS:
                state[f"{group}_at"] = str(believed(newest.get("ts")) or NOW_MS)
    if reports:
        newest = _newest(reports, ranking)
        state["report_order"] = f"{_order(newest)}:"
        state["recorded_at"] = (
            str(believed(newest.get("ts"))) if believed(newest.get("ts")) else None
        )
    _tell_firmware(state, born, ranking)
    state["boot"] = str(ranking[-1])
    return {name: text for name, text in state.items() if text is not None}


def final_uptime(ranking: Sequence[int], arrivals: Sequence[Fields | Birth]) -> Fields:
    """The uptime after all of it. A birth sets it (to 0 without one): the order of arrival matters.

    Reports only raise it, each but a copy of the newest one of its boot.
    """
    told = [each.fields if isinstance(each, Birth) else each for each in arrivals]
    boots = [fields["boot"] for fields in told if "up" in fields]
    if not boots:
        return {}
    boot, uptime_ms, newest = max(boots, key=ranking.index), 0, -1
    for each in arrivals:
        fields = each.fields if isinstance(each, Birth) else each
        if fields["boot"] != boot:
            continue
        if isinstance(each, Birth):
            uptime_ms = fields.get("up", 0)
        elif fields["seq"] != newest:
            uptime_ms, newest = max(uptime_ms, fields.get("up", 0)), max(newest, fields["seq"])
    return {"uptime_ms": str(uptime_ms), "uptime_boot": str(boot)}


def _tell_firmware(state: Fields, born: Sequence[Fields], ranking: Sequence[int]) -> None:
    told = [birth for birth in born if "fw" in birth]
    if not told:
        return
    if order := state.get("device_order"):
        if ranking.index(told[-1]["boot"]) <= ranking.index(int(order.split(":")[0])):
            return
        state["device_order"] = order[:-1] + "2"
    state["firmware"] = told[-1]["fw"]


def _newest(reports: Sequence[Fields], ranking: Sequence[int]) -> Fields:
    return max(reports, key=lambda report: (ranking.index(report["boot"]), report["seq"]))


def _order(report: Fields) -> str:
    return f"{report['boot']}:{report['seq']}:{believed(report.get('ts'))}"


def _text(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case str():
            return value
    return f"{value:.15g}"
