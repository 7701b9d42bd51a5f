"""What a simulated scooter keeps: reports until the broker has them, events until receipted."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract.messages import MESSAGE_MAX, PAYLOAD_MAX
from devices.contract.topics import Uplink
from devices.simulator.outbox import Message, Outbox
from devices.simulator.plan import Totals


def outbox(*, small: bool = True, online: bool = True) -> Outbox:
    made = Outbox(Totals(), small=small, resend_after_ms=1000)
    made.online = online
    return made


def send(box: Outbox, now_ms: int = 0) -> Message:
    message = box.next(now_ms)
    assert message is not None
    box.sent(message, now_ms)
    return message


def test_an_event_is_sent_again_until_its_receipt_arrives() -> None:
    box = outbox()
    box.keep_event("1-1", b'{"id":"1-1"}')

    first = send(box)
    assert box.next(999) is None
    assert send(box, 1000) == first
    box.receipted(b'{"ids":["1-1"]}')

    assert box.next(10_000) is None
    assert box.unreceipted == []


def test_a_receipt_deletes_exactly_the_events_it_names() -> None:
    box = outbox()
    for number in range(1, 5):
        box.keep_event(f"1-{number}", b"{}")

    box.receipted(b'{"ids":["1-2","1-4","9-9",7]}')

    assert box.unreceipted == ["1-1", "1-3"]


@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff", b"null", b"[]", b"{}", b'{"ids":"1-1"}', b'{"ids":{"1-1":1}}']
)
def test_a_receipt_that_is_none_deletes_nothing(nonsense: bytes) -> None:
    box = outbox()
    box.keep_event("1-1", b"{}")

    box.receipted(nonsense)

    assert box.unreceipted == ["1-1"]


def test_a_receipt_that_overtakes_the_puback_counts_once() -> None:
    totals = Totals()
    box = Outbox(totals, small=True, resend_after_ms=1000)
    box.keep_event("1-1", b"{}")
    message = box.next(0)
    assert message is not None

    box.receipted(b'{"ids":["1-1"]}')
    box.sent(message, 0)

    assert (totals.events_sent, totals.events_resent, totals.events_receipted) == (1, 0, 1)
    assert box.next(5000) is None


def test_after_a_reconnect_every_unreceipted_event_is_sent_again_at_once() -> None:
    box = outbox()
    box.keep_event("1-1", b"a")
    box.keep_event("1-2", b"b")
    send(box)
    send(box)

    box.went_offline()
    box.online = True

    assert [send(box).event_id, send(box).event_id] == ["1-1", "1-2"]
    assert box.next(0) is None


def test_a_report_that_was_not_confirmed_goes_into_a_batch() -> None:
    box = outbox()
    box.keep_report(b'{"seq":1}')
    assert box.next(0) == Message(Uplink.TELEMETRY, b'{"seq":1}', reports=1)

    box.went_offline()
    box.keep_report(b'{"seq":2}')
    box.online = True
    box.keep_report(b'{"seq":3}')

    assert send(box).payload == b'[{"seq":1},{"seq":2}]'
    assert send(box).payload == b'{"seq":3}'


@given(st.lists(st.integers(2, 198), min_size=1, max_size=80), st.booleans())
def test_batches_hold_every_report_once_oldest_first_and_fit(
    lengths: list[int],
    small: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    box = outbox(small=small, online=False)
    reports = [b'"' + b"x" * (length - 2) + b'"' for length in lengths]
    for report in reports:
        box.keep_report(report)

    batches = []
    while box.next(0) is not None:
        batches.append(send(box))

    assert [each for batch in batches for each in orjson.loads(batch.payload)] == [
        orjson.loads(report) for report in reports
    ]
    assert all(len(batch.payload) <= (PAYLOAD_MAX if small else MESSAGE_MAX) for batch in batches)
    assert all(batch.reports <= 2 for batch in batches if small)


def test_flash_is_bounded_and_the_oldest_goes_first() -> None:
    totals = Totals()
    box = Outbox(totals, small=False, resend_after_ms=1000)
    for number in range(700):
        box.keep_report(b"%d" % number)
    for number in range(300):
        box.keep_event(f"1-{number}", b"{}")

    assert totals.reports_lost == 100
    assert box.unreceipted[0] == "1-100"
    box.receipted(orjson.dumps({"ids": box.unreceipted}))
    first = box.next(0)
    assert first is not None
    assert orjson.loads(first.payload)[0] == 100


def test_an_ack_goes_before_everything_else_and_is_kept_until_the_broker_has_it() -> None:
    box = outbox()
    box.keep_event("1-1", b"{}")
    box.keep_report(b'{"seq":1}')
    box.keep_ack(b'{"seq":2}')

    assert box.has_acks
    box.went_offline()
    assert send(box) == Message(Uplink.ACKS, b'{"seq":2}')
    assert not box.has_acks
    assert send(box).uplink is Uplink.EVENTS


def test_an_ack_that_speaks_of_reports_waits_for_them_and_the_next_one_for_it() -> None:
    box = outbox()
    box.keep_report(b'{"seq":1}')
    box.keep_ack(b'{"seq":2}', after_reports=True)
    box.keep_ack(b'{"seq":3}')

    assert [send(box).payload for _ in range(3)] == [b'{"seq":1}', b'{"seq":2}', b'{"seq":3}']


def test_a_reboot_forgets_the_acks() -> None:
    box = outbox()
    box.keep_ack(b"{}")
    box.forget_acks()

    assert box.next(0) is None
