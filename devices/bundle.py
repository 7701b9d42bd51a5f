"""The bundle: all that a scooter, or an operator's key, needs to get in; handed over once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from devices.contract import mac, topics


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """What is the same in every bundle: where the broker is, and how to know it.

    `host` is how scooters and operators reach it, `authority_pem` the certificate that vouches for
    it. With a `fleet_secret`, every scooter's bundle has its command key.
    """

    host: str
    scooters_port: int = 8886
    operators_port: int = 8885
    authority_pem: str
    fleet_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One login with its secret; `command_key` is None for an operator, or without a fleet secret.

    `username` is a scooter's id or the name of an operator's key: `alice.laptop`.
    """

    username: str
    secret: str = field(repr=False)
    host: str
    port: int
    authority_pem: str = field(repr=False)
    topics: Mapping[str, str]
    command_key: bytes | None = field(default=None, repr=False)

    def document(self) -> dict[str, object]:
        """What `bundle.json` holds, in the order in which a person reads it."""
        named = {} if "." in self.username else {"scooter_id": self.username}
        key = {} if self.command_key is None else {"command_key": self.command_key.hex()}
        return {
            **named,
            "username": self.username,
            "secret": self.secret,
            "host": self.host,
            "port": self.port,
            "authority": self.authority_pem,
            "topics": dict(self.topics),
            **key,
        }

    def json(self) -> str:
        """`bundle.json`, with the final newline."""
        return orjson.dumps(self.document(), option=orjson.OPT_INDENT_2).decode() + "\n"

    def json_line(self) -> str:
        """The same as one line of JSON lines, with the newline."""
        return orjson.dumps(self.document()).decode() + "\n"


def scooter_bundle(facts: BundleFacts, scooter_id: str, *, secret: str, generation: int) -> Bundle:
    """The bundle of a scooter's credential; `generation` is the credential's, from 1 on."""
    return Bundle(
        username=scooter_id,
        secret=secret,
        host=facts.host,
        port=facts.scooters_port,
        authority_pem=facts.authority_pem,
        topics=scooter_topics(scooter_id),
        command_key=_command_key(facts, scooter_id, generation),
    )


def operator_bundle(facts: BundleFacts, login: str, *, secret: str) -> Bundle:
    """The bundle of an operator's key."""
    return Bundle(
        username=login,
        secret=secret,
        host=facts.host,
        port=facts.operators_port,
        authority_pem=facts.authority_pem,
        topics={
            "commands": topics.requests(login),
            "replies": topics.replies(login),
        },
    )


def scooter_topics(scooter_id: str) -> dict[str, str]:
    """Every topic of a scooter: the five it writes, the two it reads."""
    return {
        **{str(kind): topics.uplink(scooter_id, kind) for kind in topics.Uplink},
        "commands": topics.commands(scooter_id),
        "receipts": topics.receipts(scooter_id),
    }


def login_of(text: str | bytes) -> tuple[str, str] | None:
    """The user name and secret of a bundle's JSON; None when it is no whole bundle."""
    try:
        document: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    match document:
        case {"username": str(username), "secret": str(secret)}:
            return username, secret
    return None


def _command_key(facts: BundleFacts, scooter_id: str, generation: int) -> bytes | None:
    if facts.fleet_secret is None:
        return None
    return mac.command_key(facts.fleet_secret, scooter_id, generation)
