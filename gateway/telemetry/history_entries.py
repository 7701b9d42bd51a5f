"""What a history entry becomes: an event, a late report or a reject; pure, and never failing."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import orjson

from devices.contract.topics import Uplink, is_scooter_id, parse_uplink, uplink

HEAD_BYTES: Final = 256

_TOPIC_OF: Final = {b"event": Uplink.EVENTS, b"late": Uplink.TELEMETRY}
_EARLIEST_MS: Final = 1_577_836_800_000  # 2020-01-01: no clock before it is believed
_LATEST_MS: Final = 253_402_300_799_000  # 9999-12-31
_AHEAD_MS: Final = 60_000
_INT32: Final = 2**31 - 1
_ID_CHARS: Final = (
    64  # four times what the contract allows; an index takes no more than 2,704 bytes
)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of `scooter_events`, unless `key` is known already."""

    scooter_id: str
    key: str
    received_at: datetime
    recorded_at: datetime | None
    body: Mapping[str, Any]
    receipt: str


@dataclass(frozen=True, slots=True)
class LateReport:
    """One row of `late_reports`, unless `key` is known already; `text` is its JSON."""

    scooter_id: str
    key: str
    received_at: datetime
    recorded_at: datetime | None
    body: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Reject:
    """One of `rejects`; `receipt` is the id of the event that it was meant to be, if it told."""

    scooter_id: str | None
    received_at: datetime
    topic: str
    reason: str
    head: bytes
    size: int
    receipt: str | None = None

    @property
    def day(self) -> date:
        return self.received_at.date()

    @property
    def hash(self) -> bytes:
        """Equal for rejects with the same topic, reason and head."""
        parts = (self.topic.encode(), self.reason.encode(), self.head)
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).digest()


Row = Event | LateReport | Reject


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream as Redis gave it; `entry_id` is `<ms>-<number>`."""

    entry_id: str
    fields: Mapping[bytes, bytes]

    def parse(self) -> Row:
        """The row this entry becomes; one that cannot be read becomes a reject."""
        kind, body = self.fields.get(b"k"), self.fields.get(b"b", b"")
        scooter_id = _clean(self.fields.get(b"id", b""))
        received_ms = self._received_ms()
        try:
            match kind:
                case b"event":
                    return _event(scooter_id, received_ms, _object(body))
                case b"late":
                    return _late(scooter_id, received_ms, body)
                case b"reject":
                    return _reject(scooter_id, received_ms, _object(body))
        except (KeyError, TypeError, ValueError) as error:
            return self.reject(f"history entry cannot be read: {type(error).__name__}")
        return self.reject("history entry of an unknown kind")

    def reject(self, reason: str) -> Reject:
        """This entry as a reject, made so that Postgres takes it whatever it holds."""
        body = self.fields.get(b"b", b"")
        scooter_id = _clean(self.fields.get(b"id", b""))
        kind = _TOPIC_OF.get(self.fields.get(b"k", b""))
        return Reject(
            scooter_id=scooter_id if is_scooter_id(scooter_id) else None,
            received_at=_time(self._received_ms()),
            topic=uplink(scooter_id, kind) if kind else "",
            reason=reason,
            head=body[:HEAD_BYTES],
            size=len(body),
            receipt=_event_id(body) if kind is Uplink.EVENTS else None,
        )

    def _received_ms(self) -> int:
        told = self.fields.get(b"at", b"")
        received_ms = int(told) if told.isdigit() and len(told) < len(str(2**63)) else 0
        if _EARLIEST_MS <= received_ms <= _LATEST_MS:
            return received_ms
        # Only a defect of ours comes here; the stream's own clock then names the day.
        return min(int(self.entry_id.partition("-")[0]), _LATEST_MS)


def _event(scooter_id: str, received_ms: int, body: Mapping[str, Any]) -> Event:
    event_id, _ = _text(body["id"]), _text(body["ev"])
    if not is_scooter_id(scooter_id) or len(event_id) > _ID_CHARS:
        raise ValueError(event_id)
    return Event(
        scooter_id=scooter_id,
        key="e:" + event_id,
        received_at=_time(received_ms),
        recorded_at=_believed(body.get("ts"), received_ms),
        body=body,
        receipt=event_id,
    )


def _late(scooter_id: str, received_ms: int, text: bytes) -> LateReport:
    body = _object(text)
    if not is_scooter_id(scooter_id):
        raise ValueError(scooter_id)
    return LateReport(
        scooter_id=scooter_id,
        key=_late_key(body),
        received_at=_time(received_ms),
        recorded_at=_believed(body.get("ts"), received_ms),
        body=body,
        text=text.decode(),
    )


def _late_key(body: Mapping[str, Any]) -> str:
    match body.get("boot"), body.get("seq"):
        case int(boot), int(seq):
            return f"s:{boot}:{seq}"
    same = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return "h:" + hashlib.sha256(same).hexdigest()


def _reject(scooter_id: str, received_ms: int, body: Mapping[str, Any]) -> Reject:
    event_id = body.get("event")
    topic = _clean(_text(body["topic"]).encode())
    source = parse_uplink(topic)
    return Reject(
        scooter_id=scooter_id or (source.scooter_id if source else None),
        received_at=_time(received_ms),
        topic=topic,
        reason=_clean(_text(body["reason"]).encode()),
        head=base64.b64decode(_text(body["head"]), validate=True)[:HEAD_BYTES],
        size=min(max(int(body["size"]), 0), _INT32),
        receipt=event_id if isinstance(event_id, str) else None,
    )


def _event_id(body: bytes) -> str | None:
    try:
        return _text(_object(body)["id"])
    except (KeyError, TypeError, ValueError):
        return None


def _object(body: bytes) -> Mapping[str, Any]:
    found = orjson.loads(body)
    if isinstance(found, dict):
        return found
    raise TypeError(type(found))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(type(value))


def _believed(told_ms: object, received_ms: int) -> datetime | None:
    if isinstance(told_ms, int) and _EARLIEST_MS <= told_ms <= received_ms + _AHEAD_MS:
        return _time(told_ms)
    return None


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _clean(text: bytes) -> str:
    """Text that Postgres takes: valid UTF-8 without NUL."""
    return text.decode(errors="replace").replace("\0", "\ufffd")
