"""Entries: what `advance` is told of a delivery, in texts that read back the same."""

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract.topics import Uplink
from devices.standing import Standing
from gateway.links.delivery import Delivery
from gateway.telemetry.entries import FOLDED, entry_of, order_of
from tests.telemetry import FULL_REPORT, NOW_MS, ack, batch, delivery, event, status, telemetry

ID = "SC-0001"


def test_a_report_is_spelt_out_in_the_order_of_the_contract() -> None:
    assert entry_of(telemetry(ID, **FULL_REPORT), NOW_MS) == {
        "k": "telemetry",
        "id": ID,
        "o": [12, 481, NOW_MS - 500],
        "t": f"12:481:{NOW_MS - 500}:",
        "u": [12, 86_400_123],
        "g": {
            "interval": ["5"],
            "position": ["52.5200081", "-13.4049541", "4.5", "18.3", "271"],
            "battery": ["87", "40700", "21750", "false", "B204817"],
            "lock": ["unlocked", "true"],
            "device": ["999999999.5", "-71", "2.4.1"],
        },
    }


def test_a_group_of_which_one_key_was_sent_is_sent_whole() -> None:
    entry = entry_of(telemetry(ID, lock=None, mv=0, sig=-0.0), NOW_MS)

    assert entry["g"] == {
        "lock": [False, False],
        "battery": [False, "0", False, False, False],
        "device": [False, "-0", False],
    }


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ({"boot": 0, "seq": 0, "ts": NOW_MS}, [0, 0, NOW_MS]),
        ({"boot": 1, "seq": 2}, [1, 2, 0]),
        ({"boot": 1, "ts": NOW_MS}, [-1, -1, NOW_MS]),
        ({"seq": 1, "boot": None}, [-1, -1, 0]),
        ({"ts": NOW_MS + 60_000}, [-1, -1, NOW_MS + 60_000]),
        ({"ts": NOW_MS + 60_001}, [-1, -1, 0]),
        ({"ts": 1_577_836_800_000}, [-1, -1, 1_577_836_800_000]),
        ({"ts": 1_577_836_799_999}, [-1, -1, 0]),
        ({"ts": None}, [-1, -1, 0]),
    ],
)
def test_an_order_has_numbers_only_together_and_a_clock_only_if_believed(
    fields: dict[str, Any], order: list[int]
) -> None:
    assert order_of(fields, NOW_MS) == order


@given(number=st.floats(-90, 90), digits=st.integers(0, 13))
def test_decimal_text_reads_back_as_the_number_that_was_sent(number: float, digits: int) -> None:
    sent = round(number, digits)

    group = entry_of(telemetry(ID, lat=sent, lon=1), NOW_MS)["g"].get("position", [repr(sent)])

    assert float(group[0]) == sent


def test_a_batch_keeps_each_sample_and_names_the_first_bad_ones() -> None:
    bad = [{"batt": 101 + n} for n in range(5)]

    entry = entry_of(batch(ID, {"boot": 1, "seq": 2, "batt": 5, "x": 1}, *bad), NOW_MS)

    [sample] = entry["s"]
    assert (sample["o"], orjson.loads(sample["b"])) == ([1, 2, 0], {"boot": 1, "seq": 2, "batt": 5})
    reasons = orjson.loads(entry["b"])["reason"].split("; ")
    assert [reason.split(":")[0] for reason in reasons] == ["1.batt", "2.batt", "3.batt"]


def test_an_event_keeps_its_body_and_folds_its_position() -> None:
    entry = entry_of(event(ID, "12-17", boot=12, seq=5, lat=1, lon=2, d="left"), NOW_MS)

    assert orjson.loads(entry["b"])["id"] == "12-17"
    assert (entry["o"], list(entry["g"])) == ([12, 5, 0], ["position"])


def test_an_ack_folds_its_groups() -> None:
    assert entry_of(ack(ID, boot=1, seq=1, lock="locked"), NOW_MS)["g"] == {
        "lock": ["locked", False]
    }


def test_a_status_passes_as_it_is_and_an_empty_one_as_cleared() -> None:
    assert entry_of(status(ID, "online", boot=1, retain=True), NOW_MS) == {
        "k": "status",
        "id": ID,
        "m": {"s": "online", "boot": 1},
        "r": True,
    }
    assert entry_of(delivery(ID, Uplink.STATUS, b""), NOW_MS)["k"] == "cleared"


def test_a_reject_tells_topic_reason_size_and_the_first_bytes() -> None:
    payload = bytes(range(256)) * 2

    entry = entry_of(delivery(ID, Uplink.TELEMETRY, payload), NOW_MS)

    body = orjson.loads(entry["b"])
    assert (entry["k"], entry["id"], body["size"], body["event"]) == ("reject", ID, 512, None)
    assert body["topic"] == f"scooters/{ID}/telemetry"
    assert body["reason"].startswith("payload: ")
    assert base64.b64decode(body["head"]) == payload[:256]


def test_a_reject_of_an_unknown_topic_is_nobodys() -> None:
    entry = entry_of(Delivery("scooters/x/telemetry", b"{}"), NOW_MS)

    assert (entry["id"], orjson.loads(entry["b"])["topic"]) == ("", "scooters/x/telemetry")


@pytest.mark.parametrize(
    ("payload", "event_id"),
    [
        ({"id": "12-17"}, "12-17"),
        ({"id": "12-17", "ev": "fall", "ts": "now"}, "12-17"),
        ({"id": "x" * 17, "ev": "fall"}, None),
        ({"id": "", "ev": "fall"}, None),
        ({"id": 5, "ev": "fall"}, None),
        (b'{"id":"a\\u0000","ev":"fall"}', None),
        (b'{"id":"12-17","ev":"fall"', None),
        ([{"id": "12-17"}], None),
        (b"\xff", None),
    ],
    ids=repr,
)
def test_an_event_that_is_wrong_tells_its_id_for_a_receipt(
    payload: object, event_id: str | None
) -> None:
    entry = entry_of(delivery(ID, Uplink.EVENTS, payload), NOW_MS)

    assert orjson.loads(entry["b"])["event"] == event_id


def test_only_an_event_tells_an_id_for_a_receipt() -> None:
    entry = entry_of(delivery(ID, Uplink.TELEMETRY, {"id": "12-17", "batt": 200}), NOW_MS)

    assert orjson.loads(entry["b"])["event"] is None


def test_every_field_of_the_groups_has_its_slot() -> None:
    wires = [wire for names in FOLDED.values() for wire in names]

    assert len(wires) == len(set(wires)) == 16


@pytest.mark.parametrize("standing", [None, Standing.SUSPENDED, Standing.RETIRED], ids=str)
def test_who_is_not_heard_has_a_reject_with_the_event_that_it_may_delete(
    standing: Standing | None,
) -> None:
    entry = entry_of(event(ID, "12-17"), NOW_MS, lambda _id: standing)

    body = orjson.loads(entry["b"])
    assert (entry["k"], entry["id"], entry["w"]) == ("reject", ID, str(standing or "unknown"))
    assert body["reason"].startswith(f"scooter: {standing or 'unknown'}")
    assert body["event"] == "12-17"


@pytest.mark.parametrize(
    ("standing", "word", "kind"),
    [
        (None, "online", "reject"),
        (None, "lost", "reject"),
        (Standing.SUSPENDED, "online", "reject"),
        (Standing.SUSPENDED, "lost", "status"),
        (Standing.SUSPENDED, "offline", "status"),
        (Standing.SUSPENDED, "sleeping", "status"),
        (Standing.RETIRED, "online", "reject"),
        (Standing.RETIRED, "lost", "cleared"),
        (Standing.RETIRED, "offline", "cleared"),
        (Standing.REGISTERED, "online", "status"),
        (Standing.ACTIVE, "lost", "status"),
    ],
)
def test_a_status_counts_by_standing_and_a_retained_one_never_makes_noise(
    standing: Standing | None, word: str, kind: str
) -> None:
    heard = standing in {Standing.REGISTERED, Standing.ACTIVE}

    assert entry_of(status(ID, word), NOW_MS, lambda _id: standing)["k"] == kind
    retained = entry_of(status(ID, word, retain=True), NOW_MS, lambda _id: standing)
    assert retained["k"] == ("status" if heard else "cleared")
    empty = entry_of(delivery(ID, Uplink.STATUS, b""), NOW_MS, lambda _id: standing)
    assert empty == {"k": "cleared", "id": ID}


def test_what_cannot_be_decoded_is_rejected_for_that_whoever_sent_it() -> None:
    entry = entry_of(delivery(ID, Uplink.TELEMETRY, b"?"), NOW_MS, lambda _id: None)

    assert (entry["k"], entry["w"]) == ("reject", "message")
