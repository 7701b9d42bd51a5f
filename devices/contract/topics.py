"""The topic tree: every topic of the contract, built and parsed side by side."""

import re
from enum import StrEnum
from typing import Final, NamedTuple

SCOOTER_ID: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{2,31}"
_SCOOTER_ID = re.compile(SCOOTER_ID)

OPERATOR_KEY: Final = r"[a-z0-9][a-z0-9_-]{0,30}\.[a-z0-9][a-z0-9_-]{0,30}"
_REQUEST = re.compile(rf"operators/({OPERATOR_KEY})/commands")
_LOGIN = re.compile(OPERATOR_KEY)

REQUESTS: Final = "operators/"
"""How every topic of an operator begins."""

EVERY_REQUEST: Final = "operators/+/commands"
"""The filter that matches every operator's requests."""

UPLINKS: Final = re.compile(
    rf"scooters/({SCOOTER_ID})/(telemetry_batch|telemetry|events|status|acks)"
)


class Uplink(StrEnum):
    """What a scooter may say, by the last level of its topic."""

    TELEMETRY = "telemetry"
    TELEMETRY_BATCH = "telemetry_batch"
    EVENTS = "events"
    STATUS = "status"
    ACKS = "acks"


class Source(NamedTuple):
    """Who published a delivery, and what kind of message it is."""

    scooter_id: str
    uplink: Uplink


_UPLINK_OF: Final = {str(uplink): uplink for uplink in Uplink}


def is_scooter_id(text: str) -> bool:
    """Three to 32 letters, digits, `_` or `-`, the first a letter or digit."""
    return _SCOOTER_ID.fullmatch(text) is not None


def uplink(scooter_id: str, kind: Uplink) -> str:
    """The topic on which a scooter says `kind`."""
    return f"scooters/{scooter_id}/{kind}"


def parse_uplink(topic: str) -> Source | None:
    """The scooter and the kind of message of an uplink topic; None for any other topic."""
    found = UPLINKS.fullmatch(topic)
    if found is None:
        return None
    scooter_id, kind = found.groups()
    return Source(scooter_id, _UPLINK_OF[kind])


def every(kind: Uplink) -> str:
    """The filter that matches this uplink of every scooter."""
    return f"scooters/+/{kind}"


def commands(scooter_id: str) -> str:
    """Where the gateway sends a scooter its commands; never retained."""
    return f"scooters/{scooter_id}/commands"


def receipts(scooter_id: str) -> str:
    """Where the gateway tells a scooter which of its events are stored."""
    return f"scooters/{scooter_id}/receipts"


def is_operator_key(text: str) -> bool:
    """An operator and the name of its key, as in `alice.laptop`: the login at the broker."""
    return _LOGIN.fullmatch(text) is not None


def requests(login: str) -> str:
    """Where an operator's key asks for commands."""
    return f"operators/{login}/commands"


def parse_request(topic: str) -> str | None:
    """The key that asks on this topic; None for any other topic."""
    found = _REQUEST.fullmatch(topic)
    return found[1] if found else None


def replies(login: str) -> str:
    """Where an operator's key hears every move of its commands."""
    return f"operators/{login}/replies"


def gateway_status(instance: str) -> str:
    """The gateway's own birth and will, retained."""
    return f"gateway/{instance}/status"


def echo(instance: str) -> str:
    """What an instance publishes to itself to prove that messages still arrive."""
    return f"gateway/{instance}/echo"
