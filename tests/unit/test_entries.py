"""Entries: what `advance` is told of a delivery."""

import base64

import orjson
import pytest

from devices.contract.topics import Uplink
from devices.standing import Standing
from gateway.links.delivery import Delivery
from gateway.telemetry.entries import entry_of
from tests.telemetry import FULL_REPORT, ack, batch, delivery, event, status, telemetry

ID = "SC-0001"


def test_a_report_passes_as_it_was_validated() -> None:
    said = FULL_REPORT | {"x": 1, "mv": None}

    assert entry_of(telemetry(ID, **said)) == {
        "k": "telemetry",
        "id": ID,
        "m": FULL_REPORT | {"mv": None},
    }


def test_a_batch_keeps_each_sample_and_names_the_first_bad_ones() -> None:
    bad = [{"batt": 101 + n} for n in range(5)]

    entry = entry_of(batch(ID, {"boot": 1, "seq": 2, "batt": 5, "x": 1}, *bad))

    assert [orjson.loads(sample) for sample in entry["s"]] == [{"boot": 1, "seq": 2, "batt": 5}]
    reasons = orjson.loads(entry["b"])["reason"].split("; ")
    assert [reason.split(":")[0] for reason in reasons] == ["1.batt", "2.batt", "3.batt"]


def test_an_event_keeps_its_body() -> None:
    entry = entry_of(event(ID, "12-17", boot=12, seq=5, lat=1, lon=2, d="left", x=1))

    kept = {"id": "12-17", "ev": "fall", "boot": 12, "seq": 5, "lat": 1, "lon": 2, "d": "left"}
    assert orjson.loads(entry["b"]) == kept


def test_an_ack_passes_with_its_groups() -> None:
    body = {"request_id": "00ff", "status": "success", "boot": 1, "seq": 1, "lock": "locked"}

    assert entry_of(ack(ID, boot=1, seq=1, lock="locked")) == {"k": "ack", "id": ID, "m": body}


def test_a_status_passes_as_it_is_and_an_empty_one_as_cleared() -> None:
    assert entry_of(status(ID, "online", boot=1, retain=True)) == {
        "k": "status",
        "id": ID,
        "m": {"s": "online", "boot": 1},
        "r": True,
    }
    assert entry_of(delivery(ID, Uplink.STATUS, b""))["k"] == "cleared"


def test_a_reject_tells_topic_reason_size_and_the_first_bytes() -> None:
    payload = bytes(range(256)) * 2

    entry = entry_of(delivery(ID, Uplink.TELEMETRY, payload))

    body = orjson.loads(entry["b"])
    assert (entry["k"], entry["id"], body["size"], body["event"]) == ("reject", ID, 512, None)
    assert body["topic"] == f"scooters/{ID}/telemetry"
    assert body["reason"].startswith("payload: ")
    assert base64.b64decode(body["head"]) == payload[:256]


def test_a_reject_of_an_unknown_topic_is_nobodys() -> None:
    entry = entry_of(Delivery("scooters/x/telemetry", b"{}"))

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
    entry = entry_of(delivery(ID, Uplink.EVENTS, payload))

    assert orjson.loads(entry["b"])["event"] == event_id


def test_only_an_event_tells_an_id_for_a_receipt() -> None:
    entry = entry_of(delivery(ID, Uplink.TELEMETRY, {"id": "12-17", "batt": 200}))

    assert orjson.loads(entry["b"])["event"] is None


@pytest.mark.parametrize("standing", [None, Standing.SUSPENDED, Standing.RETIRED], ids=str)
def test_who_is_not_heard_has_a_reject_with_the_event_that_it_may_delete(
    standing: Standing | None,
) -> None:
    entry = entry_of(event(ID, "12-17"), lambda _id: standing)

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

    assert entry_of(status(ID, word), lambda _id: standing)["k"] == kind
    retained = entry_of(status(ID, word, retain=True), lambda _id: standing)
    assert retained["k"] == ("status" if heard else "cleared")
    empty = entry_of(delivery(ID, Uplink.STATUS, b""), lambda _id: standing)
    assert empty == {"k": "cleared", "id": ID}


def test_what_cannot_be_decoded_is_rejected_for_that_whoever_sent_it() -> None:
    entry = entry_of(delivery(ID, Uplink.TELEMETRY, b"?"), lambda _id: None)

    assert (entry["k"], entry["w"]) == ("reject", "message")
