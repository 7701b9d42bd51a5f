"""The Lua scripts that Redis runs for us, assembled from the files of this folder."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Final

from devices.contract.messages import GROUPS

FOLDED: Final = GROUPS | {"interval": {"ivl": "interval_s"}}
"""The groups that are folded, each by its own order: name on the wire to name in the state."""

_ORDERED: Final = [*FOLDED, "report"]
_TIMES: Final = {group: f"{group}_at" for group in GROUPS} | {"report": "recorded_at"}
_TEXTS: Final = ("lock", "bid", "fw")


def _list(names: Iterable[str]) -> str:
    return "{" + ",".join(f"'{name}'" for name in names) + "}"


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in pairs) + "}"


def _contract() -> str:
    """The contract's names as Lua tables, so that they are written down once."""
    names = [(group, _list(fields.values())) for group, fields in FOLDED.items()]
    wires = [(group, _list(fields)) for group, fields in FOLDED.items()]
    tables = {
        "NAMES": _table([*names, ("report", "{}")]),
        "WIRES": _table(wires),
        "TIMES": _table((group, f"'{name}'") for group, name in _TIMES.items()),
        "ORDER_FIELDS": _table((group, f"'{group}_order'") for group in _ORDERED),
        "COMPLETE": _table(
            [
                *((group, f"'{'1' * len(fields)}'") for group, fields in FOLDED.items()),
                ("report", "''"),
            ]
        ),
        # Texts of a group of which nothing is known: a table that grows costs three times as much.
        "BLANK": _table(
            (group, f"function() return {{{','.join(['false'] * len(fields))}}} end")
            for group, fields in FOLDED.items()
        ),
        "IS_TEXT": _table((wire, "true") for wire in _TEXTS),
    }
    return "\n".join(f"local {name} = {table}" for name, table in tables.items())


_PARTS: Final = {
    "advance": ("scooter", "report", "order", "firmware", "life", "fold", "advance"),
    "sweep": ("scooter", "sweep"),
    "refill": ("scooter", "refill"),
    "reset_order": ("scooter", "reset_order"),
    "claim": ("claim",),
    "clear": ("clear",),
}


@cache
def script(name: str) -> str:
    """The whole text of one script, with the contract's names in front."""
    folder = files(__name__)
    parts = [folder.joinpath(f"{part}.lua").read_text() for part in _PARTS[name]]
    return "\n".join([_contract(), *parts])
