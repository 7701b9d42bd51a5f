"""Signed commands: a scooter's command key from the fleet's secret, and the `mac` member; pure."""

import hashlib
import hmac
import re
from typing import Final

MAC_HEX: Final = 32
"""Characters of a `mac`: the first 16 bytes of HMAC-SHA-256 as lower-case hex."""

FLEET_SECRET_MIN: Final = 32
"""Characters that a fleet secret has at least."""

_SALT: Final = b"scooter command key 1"
_MAC: Final = re.compile(rb',"mac":"([0-9a-f]{32})"\}\Z')


def command_key(fleet_secret: str | bytes, scooter_id: str, generation: int) -> bytes:
    """32 bytes for one credential of one scooter; HKDF-SHA-256 (RFC 5869).

    Handed out as hex in the bundle and stored nowhere: a new credential gets another key.
    """
    info = f"{scooter_id}\0{generation}".encode()
    secret = fleet_secret.encode() if isinstance(fleet_secret, str) else fleet_secret
    pseudorandom = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(pseudorandom, info + b"\x01", hashlib.sha256)  # one block is 32 bytes


def sign(key: bytes, topic: str, payload: bytes) -> bytes:
    """The payload, a JSON object that is not empty, with `mac` as its last member."""
    if not payload.endswith(b"}") or len(payload) <= len(b"{}"):
        raise ValueError("only an object with members can be signed")
    signed = payload[:-1]
    return b'%b,"mac":"%b"}' % (signed, _mac(key, topic, signed))


def verify(key: bytes, topic: str, payload: bytes) -> bool:
    """Whether `mac` is the last member of a payload on this topic, and right."""
    found = _MAC.search(payload)
    if found is None:
        return False
    return hmac.compare_digest(found[1], _mac(key, topic, payload[: found.start()]))


def _mac(key: bytes, topic: str, signed: bytes) -> bytes:
    digest = hmac.digest(key, topic.encode() + b"\0" + signed, hashlib.sha256)
    return digest.hex()[:MAC_HEX].encode()
