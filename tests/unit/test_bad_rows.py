"""What a history entry becomes, whatever it holds; and which errors blame the row."""

import asyncpg
import pytest
from asyncpg.exceptions import (
    AdminShutdownError,
    CannotConnectNowError,
    ConnectionDoesNotExistError,
    DeadlockDetectedError,
    DiskFullError,
    NumericValueOutOfRangeError,
    QueryCanceledError,
    SerializationError,
    TooManyConnectionsError,
    UniqueViolationError,
    UntranslatableCharacterError,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.postgres import AWAY, is_bad_row
from gateway.telemetry.history_entries import HEAD_BYTES, Entry, Event, LateReport, Reject

NOON_MS = 1_795_435_200_000


def entry(kind: bytes, body: bytes, *, scooter_id: bytes = b"SC-0001") -> Entry:
    fields = {b"k": kind, b"id": scooter_id, b"at": str(NOON_MS).encode(), b"b": body}
    return Entry("1795435200000-0", fields)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DataError("invalid input for query argument"),
        NumericValueOutOfRangeError("out of range"),
        UntranslatableCharacterError("NUL"),
        UniqueViolationError("twice"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_classes_22_and_23_blame_the_row(error: asyncpg.PostgresError) -> None:
    assert is_bad_row(error)
    assert not isinstance(error, AWAY)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionDoesNotExistError("gone"),
        CannotConnectNowError("starting up"),
        AdminShutdownError("bye"),
        QueryCanceledError("statement timeout"),
        DeadlockDetectedError("deadlock"),
        SerializationError("again"),
        DiskFullError("full"),
        TooManyConnectionsError("full"),
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_never_blames_the_row(error: BaseException) -> None:
    assert not is_bad_row(error)
    assert isinstance(error, AWAY)


def test_a_row_without_a_partition_is_not_to_blame() -> None:
    """Postgres reports it like a violated constraint, but names none."""
    assert not is_bad_row(asyncpg.CheckViolationError("no partition of relation found for row"))


@pytest.mark.parametrize(
    ("kind", "body", "becomes"),
    [
        (b"event", b'{"id":"1-1","ev":"fall"}', Event),
        (b"late", b'{"batt":5}', LateReport),
        (b"late", b"{}", LateReport),
        (b"reject", b'{"topic":"t","reason":"r","head":"","size":0}', Reject),
        (b"event", b'{"ev":"fall"}', Reject),
        (b"event", b'{"id":"' + b"x" * 65 + b'","ev":"fall"}', Reject),
        (b"event", b"null", Reject),
        (b"late", b'["batt"]', Reject),
        (b"late", b'{"lat":NaN}', Reject),
        (b"late", b"", Reject),
        (b"reject", b'{"topic":"t","reason":"r","head":"%","size":0}', Reject),
        (b"other", b"{}", Reject),
    ],
    ids=str,
)
def test_an_entry_becomes_what_its_kind_says_or_a_reject(
    kind: bytes, body: bytes, becomes: type
) -> None:
    assert type(entry(kind, body).parse()) is becomes


def test_an_entry_without_fields_is_a_reject_of_the_day_in_its_id() -> None:
    row = Entry("1795435200000-0", {}).parse()

    assert isinstance(row, Reject)
    assert str(row.day) == "2026-11-23"


@pytest.mark.parametrize("scooter_id", [b"", b"a/b", b"\xff\xff\xff", b"SC\0001"])
def test_an_entry_whose_scooter_id_is_not_allowed_is_a_reject_of_nobody(scooter_id: bytes) -> None:
    row = entry(b"event", b'{"id":"1","ev":"fall"}', scooter_id=scooter_id).parse()

    assert isinstance(row, Reject)
    assert row.scooter_id is None


def test_a_reject_made_from_an_event_keeps_its_id_for_the_receipt() -> None:
    reject = entry(b"event", b'{"id":"1-1","ev":"fall"}').reject("cannot be stored")

    assert reject.receipt == "1-1"
    assert reject.topic == "scooters/SC-0001/events"


@given(
    kind=st.sampled_from([b"event", b"late", b"reject", b""]),
    body=st.binary(max_size=400),
    scooter_id=st.binary(max_size=40),
    at=st.binary(max_size=30) | st.integers().map(lambda number: str(number).encode()),
)
def test_no_entry_fails_to_become_a_row(
    kind: bytes, body: bytes, scooter_id: bytes, at: bytes
) -> None:
    fields = {b"k": kind, b"id": scooter_id, b"at": at, b"b": body}
    reject = Entry("1795435200000-0", fields).reject("because")

    Entry("1795435200000-0", fields).parse()

    assert len(reject.head) <= HEAD_BYTES
    assert "\0" not in reject.topic
    assert len(reject.hash) == 32


def test_rejects_are_the_same_by_topic_reason_and_head_only() -> None:
    one = b'{"topic":"t","reason":"r","head":"QUJD","size":3,"event":null}'
    longer = b'{"topic":"t","reason":"r","head":"QUJD","size":4,"event":"1"}'
    shifted = b'{"topic":"tr","reason":"","head":"QUJD","size":3}'
    hashes = [
        row.hash
        for body in (one, longer, shifted)
        if isinstance(row := entry(b"reject", body).parse(), Reject)
    ]

    assert hashes[0] == hashes[1] != hashes[2]
