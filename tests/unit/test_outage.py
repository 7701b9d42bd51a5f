import pytest
from structlog.testing import capture_logs

from gateway import outage
from gateway.outage import Outage


class Clock:
    """Stands in for the monotonic clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
    return clock


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jitter at its upper end, so that a wait equals its ceiling."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high)


@pytest.mark.usefixtures("clock", "longest")
def test_waits_double_up_to_the_longest() -> None:
    redis = Outage("redis", first_s=0.5, most_s=3.0)

    assert [redis.away("refused") for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.usefixtures("clock")
def test_waits_are_spread_so_that_gateways_do_not_return_together() -> None:
    waits = [Outage("redis", first_s=1.0).away("refused") for _ in range(200)]

    assert all(0.1 <= wait_s <= 1.0 for wait_s in waits)
    assert max(waits) - min(waits) > 0.5


@pytest.mark.usefixtures("longest")
def test_a_server_that_accepts_and_drops_us_is_not_hammered(clock: Clock) -> None:
    broker = Outage("broker", first_s=0.5, most_s=60.0, stable_s=30.0)
    waits = []
    for _ in range(4):
        waits.append(broker.away("dropped"))
        broker.back()
        clock.now_s += 1.0

    assert waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.usefixtures("longest")
def test_waits_start_over_after_a_stable_period(clock: Clock) -> None:
    broker = Outage("broker", first_s=0.5, stable_s=30.0)
    for _ in range(3):
        broker.away("refused")
    broker.back()
    clock.now_s += 20.0
    broker.back()  # told again while it is there: the period began with the first one
    clock.now_s += 10.0

    assert broker.away("refused") == 0.5


@pytest.mark.usefixtures("longest")
def test_time_spent_away_is_not_stability(clock: Clock) -> None:
    broker = Outage("broker", first_s=0.5, stable_s=30.0)
    broker.back()
    clock.now_s += 1.0
    broker.away("refused")
    clock.now_s += 100.0

    assert broker.away("refused") == 1.0


def test_an_outage_is_one_line_when_it_begins_and_one_when_it_ends(clock: Clock) -> None:
    postgres = Outage("postgres")
    with capture_logs() as lines:
        postgres.back()
        for _ in range(3):
            postgres.away(ConnectionRefusedError("refused"))
        clock.now_s += 7.0
        postgres.back()
        postgres.back()

    assert lines == [
        {"event": "away", "log_level": "warning", "what": "postgres", "reason": "refused"},
        {"event": "back", "log_level": "info", "what": "postgres", "away_s": 7.0},
    ]


def test_it_says_whether_the_server_is_away() -> None:
    postgres = Outage("postgres")
    told = [postgres.is_away]
    postgres.away("refused")
    told.append(postgres.is_away)
    postgres.back()
    told.append(postgres.is_away)

    assert told == [False, True, False]
