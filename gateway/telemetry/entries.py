"""What `advance.lua` takes: a message spelt out as the fields of the state, or a reject; pure."""

import base64
from collections.abc import Callable
from typing import Any, Final

import orjson

from devices.contract import messages, topics
from devices.contract.topics import Uplink
from devices.standing import Standing
from gateway.errors import DecodeError
from gateway.links.delivery import Delivery
from gateway.telemetry.decode import Fields, Message, decode

Entry = dict[str, Any]
"""`k` kind, `id` scooter, `o` order [boot, seq, ts] and `t` its text, `g` groups, `b` body …

A reject has in `w` the word that it is counted by.
"""

StandingOf = Callable[[str], Standing | None]
"""A scooter's standing in the registry, None if it is not known: asked for each delivery."""

CLOCK_GAP_MS: Final = 60_000
YEAR_2020_MS: Final = 1_577_836_800_000

HEAD_BYTES: Final = 256
"""How much of a rejected payload is kept for a person to look at."""

FOLDED: Final = messages.GROUPS | {"interval": {"ivl": "interval_s"}}
"""The groups that are folded, each by its own order; values go in the order of these names."""

_SLOTS: Final = {
    wire: (group, slot) for group, names in FOLDED.items() for slot, wire in enumerate(names)
}
_UNKNOWN: Final[dict[str, list[str | bool]]] = {
    group: [False] * len(names) for group, names in FOLDED.items()
}
_WORDS: Final[dict[object, str | bool]] = {True: "true", False: "false", None: False}
_REGISTERED, _ACTIVE = Standing.REGISTERED, Standing.ACTIVE  # quicker to read than the enum's
_NOT_HEARD: Final = {
    None: "scooter: unknown: make it known with `scooter devices add`",
    Standing.SUSPENDED: "scooter: suspended: let it in again with `scooter devices resume`",
    Standing.RETIRED: "scooter: retired for ever: add its hardware under another id",
}


def everybody(_scooter_id: str) -> Standing:
    """The standing of any scooter where there is no registry: whom the broker let in is heard."""
    return _ACTIVE


def entry_of(delivery: Delivery, received_ms: int, standing_of: StandingOf = everybody) -> Entry:
    """What to keep of a delivery: its message, or the reject that says why it has none."""
    try:
        message = decode(delivery)
    except DecodeError as error:
        return reject(delivery, error.reason)
    uplink, scooter_id, body = message.uplink, message.scooter_id, message.body
    standing = standing_of(scooter_id)
    if standing is not _ACTIVE and standing is not _REGISTERED:
        entry = _not_heard(delivery, message, standing)
        if entry is not None:
            return entry
    if uplink is Uplink.TELEMETRY:
        return {"k": "telemetry", "id": scooter_id} | _report(body, received_ms)  # type: ignore[arg-type]
    return _RARE[uplink](delivery, message, received_ms)


def _not_heard(delivery: Delivery, message: Message, standing: Standing | None) -> Entry | None:
    """What becomes of a message that does not count; None for a status that does.

    The end of a suspended scooter's session is true whatever its standing. What the broker
    repeats, and the end of a retired one's, would only be noise.
    """
    if message.uplink is Uplink.STATUS:
        is_end = bool(message.body) and message.body["s"] != "online"  # type: ignore[call-overload]
        is_noise = not message.body or message.retained
        if is_noise or (is_end and standing is Standing.RETIRED):
            return {"k": "cleared", "id": message.scooter_id}
        if is_end and standing is Standing.SUSPENDED:
            return None
    return reject(delivery, _NOT_HEARD[standing], why=str(standing or "unknown"))


def reject(delivery: Delivery, reason: str, *, why: str = "message") -> Entry:
    """The entry that keeps a delivery nobody can use, with its first bytes and the reason.

    `why` is the word that it is counted by.
    """
    source = topics.parse_uplink(delivery.topic)
    body = {
        "topic": delivery.topic,
        "reason": reason,
        "head": base64.b64encode(delivery.payload[:HEAD_BYTES]).decode(),
        "size": len(delivery.payload),
        "event": _event_id(delivery.payload) if source and source.uplink is Uplink.EVENTS else None,
    }
    scooter_id = source.scooter_id if source else ""
    return {"k": "reject", "id": scooter_id, "b": orjson.dumps(body).decode(), "w": why}


def _report(body: Fields, received_ms: int) -> Entry:
    groups: dict[str, list[str | bool]] = {}
    for wire, value in body.items():
        if slot := _SLOTS.get(wire):
            group, index = slot
            if group not in groups:
                groups[group] = _UNKNOWN[group].copy()
            kind = value.__class__
            if kind is float:  # decimal text that reads back the same
                groups[group][index] = "%.15g" % value  # noqa: UP031 - twice as fast as format()
            else:
                groups[group][index] = value if kind is str else _WORDS[value]
    order = order_of(body, received_ms)
    report = {"o": order, "t": "%d:%d:%d:" % tuple(order), "g": groups}  # noqa: UP031 - as above
    up = body.get("up")
    if up is not None:
        boot = body.get("boot")
        report["u"] = [-1 if boot is None else boot, up]
    return report


def order_of(body: Fields, received_ms: int) -> list[int]:
    """[boot, seq, ts]: -1, -1 without boot and seq; 0 for a clock that is not believed.

    A clock more than 60 s ahead of ours, or before 2020, is not believed.
    """
    boot, seq, ts = body.get("boot"), body.get("seq"), body.get("ts")
    if ts is None or not YEAR_2020_MS <= ts <= received_ms + CLOCK_GAP_MS:
        ts = 0
    if boot is None or seq is None:
        return [-1, -1, ts]
    return [boot, seq, ts]


def _batch(delivery: Delivery, message: Message, received_ms: int) -> Entry:
    samples = [
        _report(sample, received_ms) | {"b": orjson.dumps(sample).decode()}
        for sample in message.body
        if isinstance(sample, dict)
    ]
    entry = {"k": "batch", "id": message.scooter_id, "s": samples}
    if message.bad_samples:
        entry["b"] = reject(delivery, "; ".join(message.bad_samples[:3]))["b"]
    return entry


def _event(_delivery: Delivery, message: Message, received_ms: int) -> Entry:
    body = orjson.dumps(message.body).decode()
    report = _report(message.body, received_ms)  # type: ignore[arg-type]
    return {"k": "event", "id": message.scooter_id, "b": body} | report


def _ack(_delivery: Delivery, message: Message, received_ms: int) -> Entry:
    entry = {"k": "ack", "id": message.scooter_id, "a": message.body}
    return entry | _report(message.body, received_ms)  # type: ignore[arg-type]


def _status(_delivery: Delivery, message: Message, _received_ms: int) -> Entry:
    if not message.body:
        return {"k": "cleared", "id": message.scooter_id}
    return {"k": "status", "id": message.scooter_id, "m": message.body, "r": message.retained}


_RARE: Final = {
    Uplink.TELEMETRY_BATCH: _batch,
    Uplink.EVENTS: _event,
    Uplink.ACKS: _ack,
    Uplink.STATUS: _status,
}


def _event_id(payload: bytes) -> str | None:
    """The id of an event that is otherwise wrong, so that its scooter can stop re-sending it."""
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    event_id = message.get("id") if isinstance(message, dict) else None
    if isinstance(event_id, str) and 0 < len(event_id) <= messages.EVENT_ID_MAX:
        return None if "\0" in event_id else event_id
    return None
