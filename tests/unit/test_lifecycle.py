"""Statuses and moves: what can follow what, and that every path ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract.commands import COMMANDS, CommandStatus
from gateway.commands.lifecycle import (
    NEXT,
    OPEN,
    answered,
    before,
    is_open,
    is_retried,
    ran_out,
)
from tests.commanding import FIRST

S = CommandStatus
ENDS = frozenset(S) - OPEN


@pytest.mark.parametrize("current", S)
@pytest.mark.parametrize("to", S)
def test_a_move_is_legal_exactly_when_the_table_has_it(
    current: CommandStatus, to: CommandStatus
) -> None:
    assert (current in before(to)) is (to in NEXT.get(current, frozenset()))


@given(data=st.data(), first=st.sampled_from(sorted(S(each) for each in FIRST)))
def test_every_path_has_one_end_and_at_most_one_late_resolution(
    data: st.DataObject, first: CommandStatus
) -> None:
    path = [first]
    for _ in range(30):
        following = sorted(NEXT.get(path[-1], frozenset()))
        if not following:
            break
        path.append(data.draw(st.sampled_from(following)))
    ends = [status for status in path if status in ENDS]
    if len(ends) == 2:
        assert ends[0] is S.TIMED_OUT
        assert ends[1] in {S.SUCCEEDED, S.FAILED, S.REJECTED}
    else:
        assert len(ends) <= 1
    if ends:
        assert not any(is_open(status) for status in path[path.index(ends[0]) :])


@pytest.mark.parametrize("status", sorted(OPEN))
def test_every_open_status_can_run_out(status: CommandStatus) -> None:
    for has_left in (True, False):
        for error in (None, "moving"):
            end = ran_out(status, has_left=has_left, last_error=error)
            assert end in ENDS
            assert end in NEXT[status]


def test_what_nobody_answered_is_unknown_and_what_never_left_expired() -> None:
    assert ran_out(S.SENT) is S.TIMED_OUT
    assert ran_out(S.RECEIVED) is S.TIMED_OUT
    assert ran_out(S.SENT, has_left=False) is S.EXPIRED
    assert ran_out(S.QUEUED) is S.EXPIRED
    assert ran_out(S.SENT, last_error="moving") is S.REJECTED


def test_an_answer_says_what_becomes_of_a_command() -> None:
    assert answered("received") is S.RECEIVED
    assert answered("success") is S.SUCCEEDED
    assert answered("error") is S.FAILED
    assert answered("rejected") is S.REJECTED


@pytest.mark.parametrize(
    ("command", "status", "error", "left_s", "retried"),
    [
        ("lock", "rejected", "moving", 5.0, True),
        ("lock", "rejected", "moving", 0.0, False),
        ("lock", "rejected", "jammed", 5.0, False),
        ("lock", "error", "moving", 5.0, False),
        ("unlock", "rejected", "moving", 5.0, False),
    ],
)
def test_only_a_lock_that_moves_is_tried_again(
    command: str,
    status: str,
    error: str,
    left_s: float,
    retried: bool,  # noqa: FBT001
) -> None:
    rule = COMMANDS[command]
    assert is_retried(rule, status, error, left_s=left_s) is retried  # type: ignore[arg-type]
