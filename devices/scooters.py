"""A scooter as the registry knows it, and what one must be like to be added."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from devices.contract.topics import is_scooter_id
from devices.standing import Standing

RESERVED: Final = frozenset({"gateway", "admin", "canary"})
"""Accounts at the broker that no scooter and no operator may have, whatever the case."""

VEHICLE_TYPES: Final = frozenset(
    [
        "bicycle",
        "bus",
        "cargo_bicycle",
        "car",
        "delivery_robot",
        "moped",
        "motorcycle",
        "scooter_standing",
        "scooter_seated",
        "truck",
        "other",
    ]
)
"""MDS 2.0, data types, vehicle types."""

METADATA_MAX: Final = 8192
"""Bytes of a scooter's metadata as JSON."""

TAGS_MAX: Final = 32
VEHICLE_ID_MAX: Final = 64
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=/-]{0,63}")


@dataclass(frozen=True, slots=True)
class NewScooter:
    """What is known of a scooter before it is added; `vehicle_id` is what is printed on it."""

    scooter_id: str
    vehicle_id: str = ""
    vehicle_type: str = "scooter_standing"
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def printed(self) -> str:
        """Its vehicle id: its own id, if none is told."""
        return self.vehicle_id or self.scooter_id

    @property
    def problem(self) -> str | None:
        """Why it cannot be added whatever the registry holds: a sentence, or None."""
        if not is_scooter_id(self.scooter_id):
            return (
                f"{self.scooter_id!r} is no scooter id: 3 to 32 letters, digits, _ or -, "
                "the first a letter or digit"
            )
        if self.scooter_id.lower() in RESERVED:
            return f"the id {self.scooter_id} is reserved for an account of the broker"
        printed = self.printed
        if len(printed) > VEHICLE_ID_MAX or not printed.isprintable() or printed != printed.strip():
            return (
                f"vehicle id: at most {VEHICLE_ID_MAX} printable characters, no space around them"
            )
        if self.vehicle_type not in VEHICLE_TYPES:
            return f"vehicle type {self.vehicle_type!r}: one of {', '.join(sorted(VEHICLE_TYPES))}"
        return tags_problem(self.tags) or _metadata_problem(self.metadata)


@dataclass(frozen=True, slots=True)
class Scooter:
    """One scooter of the registry. `generation` grows with each credential; 0: never had one."""

    scooter_id: str
    vehicle_id: str
    vehicle_type: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    standing: Standing
    generation: int
    has_credential: bool
    registered_at: datetime
    standing_at: datetime
    credential_at: datetime | None
    firmware: str | None = None
    """What it last told, as the newest snapshot has it."""


def tags_problem(tags: tuple[str, ...]) -> str | None:
    """Why these cannot be tags: a sentence, or None."""
    for tag in tags:
        if not _TAG.fullmatch(tag):
            return (
                f"{tag!r} is no tag: up to 64 letters, digits or _ . : = / -, "
                "the first a letter or digit"
            )
    if len(set(tags)) > TAGS_MAX:
        return f"at most {TAGS_MAX} tags"
    return None


def _metadata_problem(metadata: Mapping[str, Any]) -> str | None:
    try:
        text = orjson.dumps(dict(metadata))
    except (orjson.JSONEncodeError, TypeError) as error:
        return f"metadata: {error}"
    if len(text) > METADATA_MAX:
        return f"metadata: {len(text)} bytes, at most {METADATA_MAX}"
    return "metadata: a text contains a NUL character" if b"\\u0000" in text else None
