"""What scooters say and are told: pydantic types with the short names of the wire.

Incoming messages are `TypedDict`s, because pydantic fills one in two thirds of the time of a
model: a key is present exactly when the scooter sent it, and `None` where it sent `null`.
Nobody changes one after it was decoded. Measured quantities may come as integers or as
fractions, since small C libraries print either; counters and times are integers. Unknown keys
are ignored.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal, Required

import orjson
from pydantic import Field, StrictBool, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

PAYLOAD_MAX: Final = 200
"""Bytes that every message to or from a small client fits in (PubSubClient's default packet)."""

MESSAGE_MAX: Final = 8192
"""Bytes of the largest message that a scooter may send."""

SAMPLES_MAX: Final = 100
"""Reports in one batch at most."""

EVENT_ID_MAX: Final = 16
"""Characters of the longest event id: ten of them fit in one receipt."""

GROUPS: Final[dict[str, dict[str, str]]] = {
    "position": {
        "lat": "lat",
        "lon": "lon",
        "acc": "accuracy_m",
        "spd": "speed_kmh",
        "hdg": "heading_deg",
    },
    "battery": {
        "batt": "battery_percent",
        "mv": "battery_mv",
        "rng": "range_m",
        "chg": "charging",
        "bid": "battery_id",
    },
    "lock": {"lock": "lock", "tip": "tipped_over"},
    "device": {"odo": "odometer_m", "sig": "signal_dbm", "fw": "firmware"},
}
"""The telemetry groups: name on the wire to name in the state. Each is sent whole or not at all."""

Counter = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, lt=10**14)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=31 * 86_400, allow_inf_nan=False)]
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180, allow_inf_nan=False)]
Metres = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]
Odometer = Annotated[float, Field(strict=True, ge=0, le=1_000_000_000, allow_inf_nan=False)]
Speed = Annotated[float, Field(strict=True, ge=0, le=200, allow_inf_nan=False)]
Heading = Annotated[float, Field(strict=True, ge=0, le=360, allow_inf_nan=False)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
Millivolts = Annotated[float, Field(strict=True, ge=0, le=200_000, allow_inf_nan=False)]
Dbm = Annotated[float, Field(strict=True, ge=-200, le=0, allow_inf_nan=False)]
Word = Annotated[str, StringConstraints(strict=True, max_length=32)]
EventType = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=32)]
EventId = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=EVENT_ID_MAX)]
Detail = Annotated[str, StringConstraints(strict=True, max_length=256)]
RequestId = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=32)]
Lock = Literal["locked", "unlocked", "moving", "jammed"]


class Telemetry(TypedDict, total=False):
    """One report, whole or partial.

    `ts` is ms since epoch by the scooter's clock, `up` ms since boot, `ivl` seconds until the
    next report. `seq` grows by one a message within a `boot`; both count only together.
    """

    ts: Milliseconds | None
    boot: Counter | None
    seq: Counter | None
    up: Milliseconds | None
    ivl: Seconds | None
    lat: Latitude | None
    lon: Longitude | None
    acc: Metres | None
    spd: Speed | None
    hdg: Heading | None
    batt: Percent | None
    mv: Millivolts | None
    rng: Metres | None
    chg: StrictBool | None
    bid: Word | None
    lock: Lock | None
    tip: StrictBool | None
    odo: Odometer | None
    sig: Dbm | None
    fw: Word | None


class Ack(Telemetry, total=False):
    """A scooter's answer to a command, with any telemetry group that the command changed."""

    request_id: Required[RequestId]
    status: Required[Literal["received", "success", "error", "rejected"]]
    error: Word | None


class Event(TypedDict, total=False):
    """Something that happened once; `id` is the scooter's own and names it for ever."""

    id: Required[EventId]
    ev: Required[EventType]
    ts: Milliseconds | None
    boot: Counter | None
    seq: Counter | None
    lat: Latitude | None
    lon: Longitude | None
    d: Detail | None


class Status(TypedDict, total=False):
    """Birth, goodbye or will; `conn` grows by one a CONNECT, `wake` is seconds until waking."""

    s: Required[Literal["online", "sleeping", "offline", "lost"]]
    boot: Counter | None
    conn: Counter | None
    up: Milliseconds | None
    ivl: Seconds | None
    fw: Word | None
    wake: Seconds | None


TELEMETRY: Final = TypeAdapter(Telemetry)
TELEMETRY_BATCH: Final = TypeAdapter(
    Annotated[list[Telemetry], Field(min_length=1, max_length=SAMPLES_MAX)]
)
EVENT: Final = TypeAdapter(Event)
STATUS: Final = TypeAdapter(Status)
ACK: Final = TypeAdapter(Ack)


def build_receipts(event_ids: Iterable[str]) -> Iterator[bytes]:
    """Receipts that name `event_ids` in their order, each of at most `PAYLOAD_MAX` bytes."""
    named: list[str] = []
    size = len(b'{"ids":[]}')
    for event_id in event_ids:
        longer = len(orjson.dumps(event_id)) + 1
        if named and size + longer > PAYLOAD_MAX:
            yield orjson.dumps({"ids": named})
            named, size = [], len(b'{"ids":[]}')
        named.append(event_id)
        size += longer
    if named:
        yield orjson.dumps({"ids": named})
