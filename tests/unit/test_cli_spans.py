from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.console.spans import (
    counted,
    parse_distance,
    parse_duration,
    parse_moment,
    rfc3339,
    say_age,
)

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15min", 900), ("1h", 3600), ("1h30m", 5400), ("7d", 604_800)],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1 h", "1y", "1h!", "9" * 40 + "d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01T08:30:00Z", "2026-11-01T08:30:00.000Z"),
        ("2026-11-01T08:30:00.250+02:00", "2026-11-01T06:30:00.250Z"),
        ("2026-11-01T08:30", "2026-11-01T08:30:00.000Z"),
        ("2026-11-01", "2026-11-01T00:00:00.000Z"),
        ("now", "2026-11-02T12:00:00.000Z"),
        ("36h", "2026-11-01T00:00:00.000Z"),
    ],
)
def test_a_moment_is_read_as_utc_unless_it_says_otherwise(text: str, moment: str) -> None:
    assert rfc3339(parse_moment(text, now=NOW)) == moment


@given(st.text())
def test_any_other_text_is_refused_as_a_moment_with_a_sentence(text: str) -> None:
    try:
        moment = parse_moment(text, now=NOW)
    except ValueError as error:
        assert "is no time" in str(error)  # noqa: PT017 - hypothesis may also find a time
    else:
        assert moment.tzinfo is not None


@pytest.mark.parametrize("text", ["9999d", "999999999d", "0001-01-01T00:00:00+14:00"])
def test_a_moment_before_all_calendars_is_refused_or_read(text: str) -> None:
    try:
        assert parse_moment(text, now=NOW).year >= 1
    except ValueError as error:
        assert "is no time" in str(error)  # noqa: PT017 - either will do


@pytest.mark.parametrize(
    ("text", "metres"), [("500m", 500), ("1.5km", 1500), ("500", 500), ("2 km", 2000)]
)
def test_a_distance_is_read_in_metres(text: str, metres: float) -> None:
    assert parse_distance(text) == metres


@pytest.mark.parametrize("text", ["", "-1m", "far", "1 mile", "1e3m", "0", "0km"])
def test_what_is_no_distance_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="distance"):
        parse_distance(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (864_000, "10 d")],
)
def test_an_age_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert say_age(seconds) == said


def test_one_is_told_without_the_plural() -> None:
    assert [counted(count, "scooter") for count in (0, 1, 2)] == [
        "0 scooters",
        "1 scooter",
        "2 scooters",
    ]
