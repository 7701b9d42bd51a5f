"""What `advance.lua` takes: a message that was validated, or a reject; pure."""

import base64
from collections.abc import Callable
from typing import Any, Final

import orjson

from devices.contract import messages, topics
from devices.contract.topics import Uplink
from devices.standing import Standing
from gateway.errors import DecodeError
from gateway.links.delivery import Delivery
from gateway.telemetry.decode import Message, decode

Entry = dict[str, Any]
"""`k` kind, `id` scooter, and the message: as an object in `m`, or as the history's JSON in `b`.

A batch has in `s` the JSON of each sample and in `b` the reject of those that cannot be used, a
status has in `r` whether it is retained, and a reject in `w` the word that it is counted by.
"""

StandingOf = Callable[[str], Standing | None]
"""A scooter's standing in the registry, None if it is not known: asked for each delivery."""

HEAD_BYTES: Final = 256
"""How much of a rejected payload is kept for a person to look at."""

_REGISTERED, _ACTIVE = Standing.REGISTERED, Standing.ACTIVE  # quicker to read than the enum's
_NOT_HEARD: Final = {
    None: "scooter: unknown: make it known with `scooter devices add`",
    Standing.SUSPENDED: "scooter: suspended: let it in again with `scooter devices resume`",
    Standing.RETIRED: "scooter: retired for ever: add its hardware under another id",
}


def everybody(_scooter_id: str) -> Standing:
    """The standing of any scooter where there is no registry: whom the broker let in is heard."""
    return _ACTIVE


def entry_of(delivery: Delivery, standing_of: StandingOf = everybody) -> Entry:
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
        return {"k": "telemetry", "id": scooter_id, "m": body}
    return _RARE[uplink](delivery, message)


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


def _batch(delivery: Delivery, message: Message) -> Entry:
    samples = [orjson.dumps(sample).decode() for sample in message.body]
    entry = {"k": "batch", "id": message.scooter_id, "s": samples}
    if message.bad_samples:
        entry["b"] = reject(delivery, "; ".join(message.bad_samples[:3]))["b"]
    return entry


def _event(_delivery: Delivery, message: Message) -> Entry:
    return {"k": "event", "id": message.scooter_id, "b": orjson.dumps(message.body).decode()}


def _ack(_delivery: Delivery, message: Message) -> Entry:
    return {"k": "ack", "id": message.scooter_id, "m": message.body}


def _status(_delivery: Delivery, message: Message) -> Entry:
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
