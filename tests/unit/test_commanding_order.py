import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.console.exits import Exit
from devices.contract.commands import CommandStatus, Reply, parse_request
from gateway.commands.lifecycle import NEXT, is_open
from gateway.console.commanding_order import Errand, Fate, Order, Tally, worst

S = CommandStatus


def order(**changes: Any) -> Order:  # noqa: ANN401 - any field
    return Order(**{"command": "lock", "scooter_ids": ["SC-0001"]} | changes)


def asked(**changes: Any) -> Errand:  # noqa: ANN401 - any field of the order
    errand = Errand(order(**changes), "SC-0001")
    errand.ask(now=0.0, now_ms=1_767_268_800_000)
    return errand


def reply(status: CommandStatus, move: int | None, **members: Any) -> Reply:  # noqa: ANN401
    found = {"status": status, "at": 1_767_268_800_000, **members}
    if move is not None:
        found |= {"move": move, "request_id": "0" * 16}
    return cast(Reply, found)


def test_a_request_is_what_was_ordered_and_has_a_ref_of_its_own() -> None:
    given_ = order(command="locate", params={"s": 3}, ttl_s=5.0, reason="lost", force=True)
    one, two = Errand(given_, "SC-0001"), Errand(given_, "SC-0002")
    request = parse_request(one.ask(now=0.0, now_ms=1_767_268_800_000))
    other = parse_request(two.ask(now=0.0, now_ms=1_767_268_800_000))

    assert (request.scooter_id, request.command, request.params) == ("SC-0001", "locate", {"s": 3})
    assert (request.at, request.ttl, request.reason) == (1_767_268_800_000, 5.0, "lost")
    assert request.force
    assert request.ref != other.ref
    assert one.ask_again() == one.payload


@st.composite
def stories(draw: st.DrawFn) -> list[CommandStatus]:
    """Legal moves from the first on."""
    told = [draw(st.sampled_from([S.SENT, S.QUEUED, S.REFUSED]))]
    for _ in range(draw(st.integers(0, 6))):
        following = sorted(NEXT.get(told[-1], frozenset()))
        if following and is_open(told[-1]):
            told.append(draw(st.sampled_from(following)))
    return told


@given(story=stories(), data=st.data())
def test_a_story_that_is_told_again_at_any_point_is_heard_once(
    story: list[CommandStatus], data: st.DataObject
) -> None:
    numbered = list(enumerate(story, 1))
    told = list(numbered)
    for _ in range(data.draw(st.integers(0, 3))):  # all so far, once more
        end = data.draw(st.integers(1, len(told)))
        so_far = max(move for move, _ in told[:end])
        told[end:end] = numbered[:so_far]
    errand = asked()

    heard = [status for move, status in told if errand.hear(reply(status, move), now=1.0)]

    assert heard == story
    assert errand.outcome is story[-1]


def test_a_refusal_that_nobody_recorded_counts_unless_an_earlier_request_may_have() -> None:
    once, twice, known = asked(), asked(), asked()
    twice.ask_again()
    known.hear(reply(S.SENT, 1), now=0.1)
    away = reply(S.REFUSED, None, detail="unavailable: no ledger")

    assert once.hear(away, now=0.1)
    assert not twice.hear(away, now=0.1)
    assert not known.hear(away, now=0.2)
    assert (once.exit, twice.outcome, known.outcome) == (Exit.REFUSED, None, S.SENT)


@pytest.mark.parametrize(
    ("status", "detail", "code"),
    [
        (S.SUCCEEDED, None, Exit.OK),
        (S.FAILED, "jammed", Exit.FAILED),
        (S.REJECTED, "moving", Exit.FAILED),
        (S.REFUSED, "unknown_scooter: nobody registered SC-0001", Exit.NOT_FOUND),
        (S.REFUSED, "away: the scooter is offline", Exit.REFUSED),
        (S.TIMED_OUT, None, Exit.TIMED_OUT),
        (S.EXPIRED, None, Exit.EXPIRED),
        (S.CANCELLED, None, Exit.EXPIRED),
        (S.SUPERSEDED, "by 00", Exit.EXPIRED),
    ],
)
def test_each_end_has_its_exit_code(status: S, detail: str | None, code: Exit) -> None:
    errand = asked()
    errand.hear(reply(status, 1, detail=detail) if detail else reply(status, 1), now=1.0)

    assert errand.exit is code


def test_no_answer_is_unknown_and_being_recorded_is_enough_for_whoever_does_not_wait() -> None:
    silent, waiting, hasty = asked(), asked(), asked(waits=False)
    silent.give_up(now=9.0)
    for each in (waiting, hasty):
        each.hear(reply(S.SENT, 1), now=0.1)
    assert hasty.exit is Exit.OK
    waiting.give_up(now=9.0)

    assert (silent.outcome, silent.exit) == (Fate.UNANSWERED, Exit.TIMED_OUT)
    assert (waiting.detail, waiting.exit) == ("last heard: sent", Exit.TIMED_OUT)
    assert not waiting.hear(reply(S.SUCCEEDED, 2), now=9.1)


@pytest.mark.parametrize(
    ("clock_ms", "detail", "said"),
    [
        (45_000, "clock_ahead: at is 45 s ahead of our clock, at most 30", "45 s ahead of"),
        (-90_000, "expired: it came 30.0 s after its time was up", "90 s behind"),
        (-1_000, "expired: it came 0.1 s after its time was up", None),
        (45_000, "away: the scooter is offline", None),
    ],
)
def test_a_wrong_clock_is_told_when_it_is_the_reason(
    clock_ms: int, detail: str, said: str | None
) -> None:
    errand = Errand(order(), "SC-0001")
    errand.ask(now=0.0, now_ms=1_767_268_800_000 + clock_ms)
    answer = reply(S.REFUSED, 1, detail=detail)
    errand.hear(answer, now=0.1)

    problem = errand.clock_problem(answer)

    assert problem is None if said is None else problem is not None and said in problem


@pytest.mark.parametrize(
    ("good", "bad", "hopeless"),
    [(0, 9, False), (0, 10, True), (5, 5, False), (5, 6, True), (990, 10, False)],
)
def test_an_order_is_given_up_when_too_many_of_enough_went_wrong(
    good: int, bad: int, *, hopeless: bool
) -> None:
    tally = Tally(order())
    for status in itertools.chain([S.SUCCEEDED] * good, [S.REFUSED] * bad):
        errand = asked()
        errand.hear(reply(status, 1), now=1.0)
        tally.add(errand)

    assert tally.is_hopeless == hopeless
    assert tally.ended == good + bad


def test_the_worst_end_is_the_one_somebody_must_look_after() -> None:
    assert worst([]) is Exit.OK
    assert worst([Exit.EXPIRED, Exit.REFUSED, Exit.NOT_FOUND]) is Exit.REFUSED
    assert worst([Exit.FAILED, Exit.TIMED_OUT, Exit.OK]) is Exit.TIMED_OUT
