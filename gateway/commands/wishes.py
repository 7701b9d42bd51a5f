"""An operator's delivery, read: a wish that can be judged, or why there is none; pure."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from devices.contract import topics
from devices.contract.commands import (
    CommandError,
    CommandStatus,
    Refusal,
    Request,
    parse_request,
)
from gateway.links.delivery import Delivery

CORRELATION_MAX: Final = 256
"""Bytes of correlation data that come back as they came."""

_BELOW: Final = re.compile(r"(/[A-Za-z0-9_.:~-]{1,64}){0,4}")
"""What may follow one's own topic for replies. On a wildcard or a control character the client or
the broker would give up at each try to publish, and no reply would leave any more.
"""

_SCALARS: Final = {"ref": 64, "scooter_id": 32, "command": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who hears of it, and how."""

    login: str
    correlation: bytes | None
    response_topic: str | None

    @property
    def topic(self) -> str:
        return self.response_topic or topics.replies(self.login)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request in good form. `content` is the hash by which a repeated `ref` is compared."""

    asker: Asker
    request: Request
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWish:
    """A delivery that nobody can carry out; `asker` is None where no reply is possible."""

    asker: Asker | None
    detail: str
    said: dict[str, Any]


def read(delivery: Delivery) -> Wish | NoWish:
    """What a delivery on an operator's topic asks for."""
    login = topics.parse_request(delivery.topic)
    if login is None:
        return NoWish(asker=None, detail="topic: no operator's key asks here", said={})
    asker = _asker(login, delivery)
    try:
        _check_delivery(delivery)
        request = parse_request(delivery.payload)
    except CommandError as error:
        return NoWish(asker=asker, detail=str(error), said=_said(delivery.payload))
    return Wish(asker=asker, request=request, content=_content(request))


def refusal(said: dict[str, Any], detail: str, *, now_ms: int) -> dict[str, Any]:
    """The reply for what is not recorded."""
    return {**said, "status": CommandStatus.REFUSED, "at": now_ms, "detail": detail}


def said_of(request: Request) -> dict[str, Any]:
    """What a reply repeats of a request."""
    return {name: getattr(request, name) for name in _SCALARS}


def _check_delivery(delivery: Delivery) -> None:
    if delivery.retain:
        raise CommandError(Refusal.RETAINED, "a request is never retained: clear it")
    if len(delivery.correlation_data or b"") > CORRELATION_MAX:
        raise CommandError(
            Refusal.BAD_REQUEST, f"correlation data: at most {CORRELATION_MAX} bytes"
        )


def _asker(login: str, delivery: Delivery) -> Asker:
    own, given = topics.replies(login), delivery.response_topic
    correlation = delivery.correlation_data
    return Asker(
        login=login,
        correlation=correlation if len(correlation or b"") <= CORRELATION_MAX else None,
        response_topic=given if given and _is_under(own, given) else None,
    )


def _is_under(own: str, topic: str) -> bool:
    return topic.startswith(own) and _BELOW.fullmatch(topic, len(own)) is not None


def _said(payload: bytes) -> dict[str, Any]:
    """What can be read of a bad request, so that its reply finds whoever waits."""
    try:
        body = orjson.loads(payload[: 1 << 16])
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(body, dict):
        return {}
    return {
        name: body[name]
        for name, longest in _SCALARS.items()
        if isinstance(body.get(name), str) and len(body[name]) <= longest and "\0" not in body[name]
    }


def _content(request: Request) -> str:
    text = json.dumps(request.model_dump(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
