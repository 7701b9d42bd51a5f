"""Decoding: what the contract allows becomes a message, anything else a DecodeError."""

import json
from typing import Any, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devices.contract.topics import Uplink
from gateway.errors import DecodeError
from gateway.links.delivery import Delivery
from gateway.telemetry.decode import decode
from tests.telemetry import FULL_REPORT, NOW_MS, delivery

ID = "SC-0001"
DEEP = b"[" * 4000 + b"]" * 4000


def reason(uplink: Uplink, payload: object, *, retain: bool = False) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(delivery(ID, uplink, payload, retain=retain))
    return caught.value.reason


def test_a_report_is_its_fields_by_their_short_names() -> None:
    message = decode(delivery(ID, Uplink.TELEMETRY, FULL_REPORT | {"unknown": [1]}))

    assert (message.scooter_id, message.uplink, message.retained) == (ID, Uplink.TELEMETRY, False)
    assert message.body == FULL_REPORT


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", "payload: "),
        (b"\xff\xfe", "payload: "),
        (b'{"bid":"\xc3"}', "payload: "),
        (b"\xef\xbb\xbf{}", "payload: "),
        (b"not json", "payload: "),
        (b'{"batt":1', "payload: "),
        (b'{"batt":1}x', "payload: "),
        (b"[]", "payload: "),
        (b"5", "payload: "),
        (b'{"batt":NaN}', "payload: "),
        (b'{"unknown":NaN}', "payload: "),
        (b'{"unknown":[{"x":-Infinity}]}', "payload: "),
        (b'{"batt":Infinity}', "payload: "),
        (b'{"batt":1e999}', "batt: "),
        (b'{"batt":"5"}', "batt: "),
        (b'{"batt":true}', "batt: "),
        (b'{"batt":101}', "batt: "),
        (b'{"batt":-0.1}', "batt: "),
        (b'{"chg":1}', "chg: "),
        (b'{"lock":"open"}', "lock: "),
        (b'{"lock":5}', "lock: "),
        (b'{"seq":1.5}', "seq: "),
        (b'{"seq":1.0}', "seq: "),
        (b'{"seq":4294967296}', "seq: "),
        (b'{"boot":-1}', "boot: "),
        (b'{"ts":100000000000000}', "ts: "),
        (b'{"ts":18446744073709551616}', "ts: "),
        (b'{"up":999999999999999999999999999}', "up: "),
        (b'{"odo":1000000001}', "odo: "),
        (b'{"fw":"' + b"x" * 33 + b'"}', "fw: "),
        (b'{"bid":"a\\u0000b"}', "payload: a text contains a NUL"),
        (b'{"x":{"\\u0000":1}}', "payload: a text contains a NUL"),
        (b'{"bid":"\\ud800"}', "payload: "),
        (b'{"lat":5}', "lat, lon: "),
        (b'{"lon":5,"lat":null}', "lat, lon: "),
        (b'{"lat":null}', "lat, lon: "),
        (b'{"lat":91,"lon":0}', "lat: "),
        (b'{"lat":1,"lon":180.1}', "lon: "),
        (b'{"x":' + DEEP + b"}", "payload: "),
        (b'{"batt":1,"x":"' + b"y" * 8192 + b'"}', "payload: 8209 bytes"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_an_unusable_report_is_refused_with_the_field_in_the_reason(
    payload: bytes, expected: str
) -> None:
    assert reason(Uplink.TELEMETRY, payload).startswith(expected)


@pytest.mark.parametrize(
    ("uplink", "message", "expected"),
    [
        (Uplink.EVENTS, {"ev": "fall"}, "id: "),
        (Uplink.EVENTS, {"id": "", "ev": "fall"}, "id: "),
        (Uplink.EVENTS, {"id": "x" * 17, "ev": "fall"}, "id: "),
        (Uplink.EVENTS, {"id": "1"}, "ev: "),
        (Uplink.EVENTS, {"id": "1", "ev": "fall", "d": "x" * 257}, "d: "),
        (Uplink.EVENTS, {"id": "1", "ev": "fall", "lat": 5}, "lat, lon: "),
        (Uplink.STATUS, {}, "s: "),
        (Uplink.STATUS, {"s": "here"}, "s: "),
        (Uplink.STATUS, {"s": "online", "conn": -1}, "conn: "),
        (Uplink.ACKS, {"status": "success"}, "request_id: "),
        (Uplink.ACKS, {"request_id": "1", "status": "done"}, "status: "),
        (Uplink.TELEMETRY_BATCH, [], "payload: "),
        (Uplink.TELEMETRY_BATCH, {"batt": 1}, "payload: "),
        (Uplink.TELEMETRY_BATCH, [5], "0: "),
        (Uplink.TELEMETRY_BATCH, [{"batt": 200}], "0.batt: "),
    ],
)
def test_every_kind_of_message_names_the_field_that_is_wrong(
    uplink: Uplink, message: object, expected: str
) -> None:
    assert reason(uplink, message).startswith(expected)


@pytest.mark.parametrize(
    "topic",
    [
        *("x", "scooters/SC-0001", "scooters/SC-0001/telemetry/x", "/scooters/SC-0001/status"),
        *("scooters/ab/telemetry", "scooters/-bc/telemetry", "scooters/SC 01/telemetry"),
        *("scooters/SC-0001/telemetry\n", f"scooters/{'x' * 33}/status", "scooters/a\0b/status"),
        *("scooters/SC-0001/commands", "Scooters/SC-0001/telemetry", "gateway/SC-0001/status"),
    ],
)
def test_a_topic_where_no_scooter_publishes_is_refused(topic: str) -> None:
    with pytest.raises(DecodeError, match=r"^topic: "):
        decode(Delivery(topic, b"{}"))


@pytest.mark.parametrize("uplink", [kind for kind in Uplink if kind is not Uplink.STATUS])
def test_only_a_status_may_be_retained(uplink: Uplink) -> None:
    assert reason(uplink, b"{}", retain=True).startswith("retain: ")


def test_an_empty_status_clears_the_retained_one() -> None:
    message = decode(delivery(ID, Uplink.STATUS, b"", retain=True))

    assert (message.body, message.retained) == ({}, True)


def test_a_position_at_zero_zero_was_not_sent() -> None:
    fields = {"lat": -0.0, "lon": 0, "acc": 1, "spd": 2, "hdg": 3, "batt": 4}

    assert decode(delivery(ID, Uplink.TELEMETRY, fields)).body == {"batt": 4}
    assert decode(delivery(ID, Uplink.TELEMETRY, {"lat": 0, "lon": 0.1})).body != {}


@pytest.mark.parametrize("ts", [0, 1, NOW_MS * 50])
def test_an_absurd_clock_is_not_refused(ts: int) -> None:
    assert decode(delivery(ID, Uplink.TELEMETRY, {"ts": ts})).body == {"ts": ts}


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "\\u0041", "\\\\u0000", "N", "tab\\t"], ids=ascii
)
def test_words_that_only_look_wrong_are_texts(text: str) -> None:
    payload = f'{{"bid":"{text}"}}'.encode()

    assert decode(delivery(ID, Uplink.TELEMETRY, payload)).body == json.loads(payload)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"batt":200}',
        b"[]",
        b"null",
        b"[" * 300 + b"]" * 300,
        b'{"lat":1}',
        b'{"ts":18446744073709551616}',
    ],
)
def test_the_good_samples_of_a_batch_survive_a_bad_one(bad: bytes) -> None:
    message = decode(delivery(ID, Uplink.TELEMETRY_BATCH, b'[{"batt":1},' + bad + b',{"batt":2}]'))

    assert message.body == [{"batt": 1}, {"batt": 2}]
    assert len(message.bad_samples) == 1
    assert message.bad_samples[0].startswith("1")


def test_a_nul_deep_inside_is_found_without_recursion() -> None:
    payload = b"[" * 900 + b'"\\u0000"' + b"]" * 900

    assert "NUL" in reason(Uplink.TELEMETRY, payload)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = st.sampled_from([*FULL_REPORT, "id", "ev", "d", "s", "conn", "wake", "request_id", "x"])
OBJECT = st.dictionaries(KEYS, st.sampled_from([*FULL_REPORT.values(), "online"]) | VALUE)
MESSAGE = OBJECT | st.lists(OBJECT | VALUE, max_size=3) | VALUE
TEXT = MESSAGE.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace"))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """JSON with a few bytes changed, or none."""
    payload = bytearray(draw(TEXT))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(payload)))
        payload[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(payload)


@settings(max_examples=150, deadline=None)
@given(
    payload=st.binary(max_size=40) | damaged() | MESSAGE.map(lambda v: json.dumps(v).encode()),
    uplink=st.sampled_from(Uplink),
    retain=st.booleans(),
)
@example(payload=b"[" * 300 + b"]" * 300, uplink=Uplink.TELEMETRY_BATCH, retain=False)
@example(payload=b"[{}," + DEEP[:600] + b"]" * 601, uplink=Uplink.TELEMETRY_BATCH, retain=False)
@example(payload=b'{"x":1e999}', uplink=Uplink.TELEMETRY, retain=False)
def test_any_bytes_are_strict_json_or_a_decode_error(
    payload: bytes, uplink: Uplink, *, retain: bool
) -> None:
    try:
        message = decode(delivery(ID, uplink, payload, retain=retain))
    except DecodeError as error:
        assert error.reason  # noqa: PT017 - either way is right
    else:
        if payload:
            parsed: Any = json.loads(payload.decode(), parse_constant=_refuse)
            assert isinstance(parsed, list if uplink is Uplink.TELEMETRY_BATCH else dict)
        assert message.scooter_id == ID


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} was let through")


PLAIN = st.characters(codec="utf-8", exclude_characters="+#\0")


@settings(max_examples=100, deadline=None)
@given(
    topic=st.text(PLAIN, min_size=1, max_size=40)
    | st.from_regex(r"scooters/[^+#\x00]{1,34}/(telemetry|status)\n?", fullmatch=True)
)
def test_any_topic_is_a_scooters_or_a_decode_error(topic: str) -> None:
    try:
        message = decode(Delivery(topic, b'{"s":"online"}'))
    except DecodeError:
        return
    assert topic == f"scooters/{message.scooter_id}/{message.uplink}"
