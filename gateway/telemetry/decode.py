"""From bytes to a message of the contract, or to a DecodeError that names the field; pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from devices.contract import messages, topics
from devices.contract.topics import Uplink
from gateway.errors import DecodeError
from gateway.links.delivery import Delivery

Fields = dict[str, Any]
"""A validated message of the contract, by its short names."""


class Message(NamedTuple):
    """One delivery, decoded. `bad_samples` says what is wrong with a batch's unusable samples."""

    scooter_id: str
    uplink: Uplink
    body: Fields | list[Fields]
    retained: bool
    bad_samples: list[str]


def _validator(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """The compiled validator itself: calling it saves a fifth of the time of the adapter."""
    validator = adapter.validator
    assert isinstance(validator, SchemaValidator)  # noqa: S101 - narrows the type
    return validator


_VALIDATORS: Final = {
    Uplink.TELEMETRY: _validator(messages.TELEMETRY),
    Uplink.TELEMETRY_BATCH: _validator(messages.TELEMETRY_BATCH),
    Uplink.EVENTS: _validator(messages.EVENT),
    Uplink.STATUS: _validator(messages.STATUS),
    Uplink.ACKS: _validator(messages.ACK),
}
_POSITION: Final = frozenset(messages.GROUPS["position"])


def decode(delivery: Delivery) -> Message:
    """The message of one delivery; raises DecodeError with the field and why it is unusable.

    An empty status is what clears a retained one: its body is empty.
    """
    source = topics.parse_uplink(delivery.topic)
    if source is None:
        raise DecodeError("topic: no scooter publishes here")
    scooter_id, uplink = source
    payload = delivery.payload
    if len(payload) > messages.MESSAGE_MAX:
        raise DecodeError(f"payload: {len(payload)} bytes, at most {messages.MESSAGE_MAX}")
    if uplink is Uplink.STATUS:
        body = _validated(uplink, payload) if payload else {}
        return Message(scooter_id, uplink, body, delivery.retain, [])
    if delivery.retain:
        raise DecodeError("retain: only a status may be retained")
    if uplink is Uplink.TELEMETRY_BATCH:
        samples, bad = _samples(payload)
        return Message(scooter_id, uplink, samples, False, bad)  # noqa: FBT003
    body = _with_fix(_validated(uplink, payload))
    return Message(scooter_id, uplink, body, False, [])  # noqa: FBT003


def _validated(uplink: Uplink, payload: bytes) -> Any:  # noqa: ANN401 - a mapping or a list of them
    if b"N" in payload or b"I" in payload or b"\\" in payload:
        _check_text(payload)
    try:
        return _VALIDATORS[uplink].validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "payload"
        raise DecodeError(f"{where}: {first['msg']}") from None


def _samples(payload: bytes) -> tuple[list[Fields], list[str]]:
    """The samples of a batch that can be used, and a reason for each of the others."""
    try:
        samples = _validated(Uplink.TELEMETRY_BATCH, payload)
        return [_with_fix(sample) for sample in samples], []
    except DecodeError as error:
        whole = error
    try:
        parts = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise whole from None
    if not isinstance(parts, list) or not 0 < len(parts) <= messages.SAMPLES_MAX:
        raise whole
    good, bad = [], []
    for number, part in enumerate(parts):
        try:
            good.append(_with_fix(_validated(Uplink.TELEMETRY, orjson.dumps(part))))
        except DecodeError as error:
            bad.append(f"{number}.{error.reason}")
        except orjson.JSONEncodeError as error:  # orjson reads deeper nesting than it writes
            bad.append(f"{number}.payload: {error}")
    if not good:
        raise whole
    return good, bad


def _check_text(payload: bytes) -> None:
    """Refuse what JSON forbids but parsers let through, and what Postgres cannot store."""
    if b"NaN" in payload or b"Infinity" in payload:
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise DecodeError(f"payload: {error}") from None
    if b"\\u0000" in payload and _has_nul(payload):
        raise DecodeError("payload: a text contains a NUL character")


def _has_nul(payload: bytes) -> bool:
    try:
        return any("\0" in text for text in _texts(orjson.loads(payload)))
    except orjson.JSONDecodeError:
        return False  # the validator will say what is wrong with it


def _texts(value: object) -> Iterator[str]:
    """Every text in a document; not recursive, because a document may be nested deeply."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left.extend(items)
            case dict() as members:
                left.extend(members.keys())
                left.extend(members.values())


def _with_fix(body: Fields) -> Fields:
    """Check that a position is whole; (0, 0) is what a receiver without a fix prints."""
    if "lat" not in body and "lon" not in body:
        return body
    lat, lon = body.get("lat"), body.get("lon")
    if (lat is None) != (lon is None) or ("lat" in body) != ("lon" in body):
        raise DecodeError("lat, lon: one without the other")
    if lat == 0 and lon == 0:
        return {name: value for name, value in body.items() if name not in _POSITION}
    return body
