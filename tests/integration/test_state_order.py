"""Property: reports with boot and seq end in the same state, however they arrive."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from devices.contract.topics import Uplink
from gateway.telemetry.entries import Entry, entry_of
from gateway.telemetry.scripts import FOLDED, script
from gateway.telemetry.state_store import LOADED
from tests.succession import PUBLIC, Birth, Fields, final_state, final_uptime
from tests.telemetry import NOW_MS, delivery

Arrivals = Sequence[Fields | Birth]

QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HOUR_MS = 3_600_000
TEN_DAYS_MS = 864_000_000
ORDERS_TRIED = 3


class Runner:
    """Brings arrivals to a new scooter, cut into calls, and reads what they made of it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._advance = redis.register_script(script("advance"))
        self._numbers = itertools.count(1)
        redis.set(LOADED, 1)

    def run(
        self, arrivals: Arrivals, cuts: Sequence[int] = (), *, an_hour_before: Arrivals = ()
    ) -> dict[str, str]:
        scooter_id = f"P-{next(self._numbers)}"
        self.advance([_entry(scooter_id, each) for each in an_hour_before], at=NOW_MS - HOUR_MS)
        entries = [_entry(scooter_id, arrival) for arrival in arrivals]
        bounds = [0, *sorted(cut % (len(entries) + 1) for cut in cuts), len(entries)]
        for start, end in itertools.pairwise(bounds):
            self.advance(entries[start:end])
        raw: Any = self._redis.hgetall(f"scooter:{scooter_id}")
        state = {name.decode(): value.decode() for name, value in raw.items()}
        return {name: text for name, text in state.items() if name in PUBLIC}

    def advance(self, entries: list[Entry], *, at: int = NOW_MS) -> list[str]:
        batch = orjson.dumps({"at": at, "entries": entries})
        outcomes: Any = self._advance(args=[batch, 1 << 40, 180_000])
        assert len(outcomes[0]) == len(entries)
        assert {outcome.decode() for outcome in outcomes[0]} <= {
            *("applied", "duplicate", "late", "presence")
        }
        return [outcome.decode() for outcome in outcomes[0]]


@pytest.fixture
def runner(redis_url: str) -> Iterator[Runner]:
    with Redis.from_url(redis_url) as redis:
        yield Runner(redis)


def _entry(scooter_id: str, arrival: Fields | Birth) -> Entry:
    if isinstance(arrival, Birth):
        message = {"s": "online", **arrival.fields}
        return entry_of(delivery(scooter_id, Uplink.STATUS, message))
    return entry_of(delivery(scooter_id, Uplink.TELEMETRY, arrival))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("lat", "lon"), st.sampled_from([1.5, -33.25, 52.520008, 85.06])),
    **dict.fromkeys(("acc", "spd", "hdg", "mv", "rng", "odo"), st.integers(0, 99) | st.none()),
    "batt": st.integers(0, 100) | st.none(),
    "sig": st.integers(-120, 0) | st.none(),
    "ivl": st.integers(1, 60),
    **dict.fromkeys(("chg", "tip"), st.booleans() | st.none()),
    "lock": st.sampled_from(["locked", "unlocked", None]),
    **dict.fromkeys(("bid", "fw"), st.sampled_from(["a", "b", "c", None])),
}


@st.composite
def groups(draw: st.DrawFn) -> Fields:
    fields: Fields = {}
    for group in draw(st.sets(st.sampled_from(sorted(FOLDED)), max_size=3)):
        wires = sorted(FOLDED[group])
        if group == "position":
            chosen = {"lat", "lon", *draw(st.sets(st.sampled_from(wires), max_size=2))}
        else:
            chosen = draw(st.sets(st.sampled_from(wires), min_size=1))
        fields |= {wire: draw(VALUES[wire]) for wire in sorted(chosen)}
    return fields


@st.composite
def reports_of(
    draw: st.DrawFn,
    boots: Sequence[int],
    clock: Callable[[int, int], st.SearchStrategy[int | None]],
) -> list[Fields]:
    """Reports of `boots`; `clock` gives the ts of a seq in the boot at an index."""
    made = []
    for index, boot in enumerate(boots):
        for seq in sorted(draw(st.sets(st.integers(0, 9), max_size=4))):
            report = {"boot": boot, "seq": seq, **draw(groups())}
            if (ts := draw(clock(index, seq))) is not None:
                report["ts"] = ts
            if draw(st.booleans()):
                report["up"] = seq * 1000
            made.append(report)
    return made


def right_clock(index: int, seq: int) -> st.SearchStrategy[int | None]:
    return st.just(NOW_MS - 10 * HOUR_MS + index * HOUR_MS + seq * 1000)


def right_or_no_clock(index: int, seq: int) -> st.SearchStrategy[int | None]:
    return right_clock(index, seq) | st.none()


def any_clock(index: int, seq: int) -> st.SearchStrategy[int | None]:
    return right_or_no_clock(index, seq) | st.integers(0, NOW_MS + 10 * HOUR_MS)


@st.composite
def births_of(draw: st.DrawFn, boots: Sequence[int]) -> list[Birth]:
    """A birth or more of every boot, in the order of the boots."""
    told = {"up": st.integers(0, 5000), "ivl": st.integers(1, 60), "fw": st.sampled_from("xyz")}
    conn = itertools.count(1)
    return [
        Birth({"boot": boot, "conn": next(conn), **draw(st.fixed_dictionaries({}, optional=told))})
        for boot in boots
        for _ in range(draw(st.integers(1, 2)))
    ]


@st.composite
def arrivals_of(draw: st.DrawFn, reports: Sequence[Fields], births: Sequence[Birth]) -> Arrivals:
    """Every report at least once in any order; births in theirs, a prefix of them redelivered."""
    again = draw(st.lists(st.sampled_from(reports), max_size=4)) if reports else []
    arrivals: list[Fields | Birth] = list(draw(st.permutations([*reports, *again])))
    in_order = [*births[: draw(st.integers(0, len(births)))], *births]
    places = sorted(draw(st.integers(0, len(arrivals))) for _ in in_order)
    for shift, (place, birth) in enumerate(zip(places, in_order, strict=True)):
        arrivals.insert(place + shift, birth)
    return arrivals


def check(
    data: st.DataObject,
    runner: Runner,
    ranking: Sequence[int],
    reports: Sequence[Fields],
    births: Sequence[Birth] = (),
) -> None:
    expected = final_state(ranking, reports, births)
    for _ in range(ORDERS_TRIED):
        arrivals = data.draw(arrivals_of(reports, births))
        cuts = data.draw(st.lists(st.integers(0, 30), max_size=3))
        assert runner.run(arrivals, cuts) == expected | final_uptime(ranking, arrivals)


BOOTS = st.lists(st.sampled_from([1, 2, 5, 9, 100]), min_size=1, max_size=4, unique=True)


@QUICK
@given(data=st.data(), boots=BOOTS)
def test_with_births_any_arrival_ends_in_the_state_of_their_succession(
    runner: Runner, data: st.DataObject, boots: list[int]
) -> None:
    reports = data.draw(reports_of(boots, any_clock))
    births = data.draw(births_of(boots))

    check(data, runner, boots, reports, births)


@QUICK
@given(data=st.data(), boots=BOOTS)
def test_after_the_birth_of_a_number_used_again_any_arrival_ends_in_the_state_of_the_new_life(
    runner: Runner, data: st.DataObject, boots: list[int]
) -> None:
    former = data.draw(reports_of(boots, any_clock))
    for report in former:
        report["up"] = TEN_DAYS_MS + report["seq"]
    former_births = [Birth({"boot": boot, "conn": 1, "up": TEN_DAYS_MS}) for boot in boots]
    boot = data.draw(st.sampled_from(boots))
    reports = data.draw(reports_of([boot], any_clock))
    first, *others = data.draw(births_of([boot]))
    first.fields["up"] = 5000
    stragglers = [report for report in former if report["boot"] == boot]
    expected = final_state([boot], reports, [first, *others])
    said = [FOLDED[group] for group in FOLDED if f"{group}_order" in expected]
    former_arrivals = data.draw(arrivals_of(former, former_births))

    for _ in range(ORDERS_TRIED):
        arrivals = [first, *data.draw(arrivals_of(reports, others))]
        state = runner.run(
            [first, *stragglers, *arrivals[1:]],
            data.draw(st.lists(st.integers(0, 30), max_size=3)),
            an_hour_before=former_arrivals,
        )
        of_this_life = {name for names in said for name in names.values()} | expected.keys()
        shown = {name: text for name, text in state.items() if name in of_this_life}
        uptime = {name: state[name] for name in ("uptime_ms", "uptime_boot")}
        assert shown == expected
        assert uptime == final_uptime([boot], arrivals)


@QUICK
@given(data=st.data(), boots=BOOTS.map(sorted))
def test_without_births_any_arrival_of_growing_boots_ends_in_the_same_state(
    runner: Runner, data: st.DataObject, boots: list[int]
) -> None:
    reports = data.draw(reports_of(boots, right_or_no_clock))
    told = {report["boot"] for report in reports}

    if told:
        check(data, runner, [boot for boot in boots if boot in told], reports)


@QUICK
@given(data=st.data(), boots=BOOTS)
def test_without_births_right_clocks_tell_an_erased_flash_in_any_arrival(
    runner: Runner, data: st.DataObject, boots: list[int]
) -> None:
    reports = data.draw(reports_of(boots, right_clock))
    told = {report["boot"] for report in reports}

    if told:
        check(data, runner, [boot for boot in boots if boot in told], reports)


@QUICK
@given(data=st.data(), boots=BOOTS)
def test_the_state_never_goes_back_to_an_older_report_of_the_same_boot(
    runner: Runner, data: st.DataObject, boots: list[int]
) -> None:
    reports = data.draw(reports_of(boots, any_clock))
    unordered = [{"ts": ts, "lat": 1, "lon": 2, "batt": 3} for ts in (NOW_MS - HOUR_MS, 0)]
    arrivals = data.draw(arrivals_of([*reports, *unordered], ()))
    newest: dict[tuple[str, int], int] = {}
    for length in range(1, len(arrivals) + 1):
        state = runner.run(arrivals[:length])
        for name in ("report_order", "position_order", "battery_order", "lock_order"):
            boot, seq = map(int, state.get(name, "-1:-1").split(":")[:2])
            assert seq >= newest.get((name, boot), -1), (name, arrivals[:length])
            newest[name, boot] = seq
