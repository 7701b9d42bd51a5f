"""A clock of another machine that is set forward is not believed about what was before."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.clock_steps import ForwardSteps


def test_what_was_before_a_step_is_older_than_it_seems_by_the_step_at_most() -> None:
    steps = ForwardSteps()
    steps.note(1_000.0, asked_at=10.0, answered_at=10.0)
    steps.note(3_603_000.0, asked_at=12.0, answered_at=12.0)  # an hour in two seconds
    assert steps.since_ms(900.0) == 3_600_000.0
    assert steps.since_ms(3_603_001.0) == 0  # heard after the step


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    steps = ForwardSteps()
    steps.note(9_000_000.0, asked_at=10.0, answered_at=10.0)
    steps.note(1_000.0, asked_at=12.0, answered_at=12.0)
    assert steps.since_ms(500.0) == 0


@given(
    answers=st.lists(
        st.tuples(
            st.floats(0, 100), st.floats(0, 2), st.floats(0, 1), st.just(0.0) | st.floats(0.2, 9999)
        ),
        max_size=150,
    ),
    heard=st.integers(0, 150),
)
def test_an_age_is_never_more_than_the_truth_but_for_what_a_delay_hides(
    answers: list[tuple[float, float, float, float]], heard: int
) -> None:
    """Each: a pause, how long the answer takes, when within that it was read, and a step before."""
    steps, now, ahead_ms, at, stamp, slack_ms = ForwardSteps(), 0.0, 0.0, None, 0.0, 0.0
    steps.note(0.0, asked_at=0.0, answered_at=0.0)
    last_s = 0.0
    for number, (pause_s, takes_s, share, step_s) in enumerate(answers):
        now += pause_s
        if number == heard:
            at, stamp, slack_ms = now, now * 1000 + ahead_ms, 0.0
        ahead_ms += step_s * 1000
        reading_ms = (now + takes_s * share) * 1000 + ahead_ms
        steps.note(reading_ms, asked_at=now, answered_at=now + takes_s)
        slack_ms += (takes_s + last_s) * 1000 + 51
        last_s, read_at = takes_s, now + takes_s * share
        now += takes_s
        if at is not None:
            age_ms = reading_ms - stamp - steps.since_ms(stamp)
            assert age_ms <= (read_at - at) * 1000 + slack_ms
