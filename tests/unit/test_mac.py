"""Signed commands: the key of one credential, and what a signature covers."""

import hashlib

import orjson
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from devices.contract import mac, topics

SECRET = "fleet-secret-of-32-characters-or-more"  # noqa: S105 - of these tests
KEY = mac.command_key(SECRET, "SC-0001", 1)
TOPIC = topics.commands("SC-0001")
PAYLOAD = b'{"request_id":"00000000000000aa","command":"unlock","n":1767268800123}'

OBJECTS = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), min_size=1)


def test_a_key_is_hkdf_as_the_library_has_it() -> None:
    kdf = HKDF(SHA256(), length=32, salt=b"scooter command key 1", info=b"SC-0001\x001")
    assert kdf.derive(SECRET.encode()) == KEY


def test_the_example_for_firmware_does_not_change() -> None:
    assert KEY.hex() == "f8296052a3fec90bd9e7f40d4ba0455a9661416f590908e4c49510519c0fd70e"
    assert mac.sign(KEY, TOPIC, PAYLOAD).endswith(b',"mac":"30f1a53df790560fa2afbceccdad947c"}')


def test_each_scooter_and_each_credential_has_another_key() -> None:
    keys = {
        mac.command_key(secret, scooter_id, generation)
        for secret in (SECRET, SECRET + "x")
        for scooter_id in ("SC-0001", "SC-00011", "SC-0002")
        for generation in (1, 2, 11)
    }
    assert len(keys) == 18
    assert {len(key) for key in keys} == {32}


@given(members=OBJECTS)
def test_what_was_signed_is_right_and_still_the_same_object(members: dict[str, object]) -> None:
    payload = orjson.dumps({key: str(value)[:9] for key, value in members.items()})
    signed = mac.sign(KEY, TOPIC, payload)
    assert mac.verify(KEY, TOPIC, signed)
    assert signed.startswith(payload[:-1])
    assert orjson.loads(signed).keys() == orjson.loads(payload).keys() | {"mac"}


@given(members=OBJECTS, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(members: dict[str, object], at: int, bit: int) -> None:
    payload = orjson.dumps({key: str(value)[:9] for key, value in members.items()})
    signed = bytearray(mac.sign(KEY, TOPIC, payload))
    signed[at % len(signed)] ^= 1 << bit
    assert not mac.verify(KEY, TOPIC, bytes(signed))


def test_another_key_or_topic_is_wrong() -> None:
    signed = mac.sign(KEY, TOPIC, PAYLOAD)
    assert not mac.verify(mac.command_key(SECRET, "SC-0001", 2), TOPIC, signed)
    assert not mac.verify(KEY, topics.commands("SC-0002"), signed)


@pytest.mark.parametrize(
    "payload",
    [
        PAYLOAD,
        b"",
        b"{}",
        mac.sign(KEY, TOPIC, PAYLOAD) + b"\n",
        mac.sign(KEY, TOPIC, PAYLOAD)[:-1] + b',"params":{"on":true}}',
    ],
    ids=["unsigned", "empty", "empty object", "longer", "a member after it"],
)
def test_a_mac_must_be_the_last_member(payload: bytes) -> None:
    assert not mac.verify(KEY, TOPIC, payload)


@pytest.mark.parametrize("payload", [b"{}", b"[1]", b""])
def test_only_an_object_with_members_is_signed(payload: bytes) -> None:
    with pytest.raises(ValueError, match="members"):
        mac.sign(KEY, TOPIC, payload)


def test_the_mac_is_the_first_half_of_the_digest() -> None:
    import hmac  # noqa: PLC0415 - beside the module of this name

    signed = mac.sign(KEY, TOPIC, PAYLOAD)
    whole = hmac.new(KEY, TOPIC.encode() + b"\0" + PAYLOAD[:-1], hashlib.sha256).hexdigest()
    assert orjson.loads(signed)["mac"] == whole[:32]
