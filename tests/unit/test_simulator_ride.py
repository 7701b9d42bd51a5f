"""The simulated scooters' bodies: on streets, on a battery, with a lock."""

import itertools
import math
import random

import pytest

from devices.simulator.city import City
from devices.simulator.ride import Doing, Happening, Ride

CITY = City(seed=7)
METRES_PER_DEGREE = 111_320.0


def ride(seed: int, *, falls_per_h: float = 0.0) -> Ride:
    return Ride(CITY, random.Random(seed), falls_per_h=falls_per_h)  # noqa: S311 - no secret


def off_street_m(a_ride: Ride) -> float:
    """How far a scooter is from the line between the two corners of its block."""
    start, end = CITY.corners[a_ride.street.start], CITY.corners[a_ride.street.end]
    at = a_ride.position
    wide = math.cos(math.radians(at.lat))
    way = ((end.lat - start.lat), (end.lon - start.lon) * wide)
    here = ((at.lat - start.lat), (at.lon - start.lon) * wide)
    across = abs(way[0] * here[1] - way[1] * here[0]) / math.hypot(*way)
    return across * METRES_PER_DEGREE


def test_the_same_seed_gives_the_same_city_and_another_gives_another() -> None:
    assert City(seed=7).corners == CITY.corners
    assert City(seed=8).corners != CITY.corners


def test_no_street_is_a_dead_end_and_every_street_is_in_the_city() -> None:
    for number, corner in enumerate(CITY.corners):
        streets = CITY.streets_from(number)
        assert len(streets) >= 2
        assert all(100 < street.length_m < 700 for street in streets)
        assert CITY.south <= corner.lat <= CITY.north
        assert CITY.west <= corner.lon <= CITY.east


@pytest.mark.parametrize("seed", range(2))
def test_a_scooter_is_always_on_its_street_and_rides_no_faster_than_it_can(seed: int) -> None:
    a_ride = ride(seed)
    for _ in range(2000):
        before_m = a_ride.odometer_m
        a_ride.advance(1.0)
        assert off_street_m(a_ride) < 0.5
        assert 0 <= a_ride.odometer_m - before_m <= 25 / 3.6 + 0.01
        assert (a_ride.speed_kmh == 0) or a_ride.doing is Doing.RIDING


@pytest.mark.parametrize("seed", range(2))
def test_the_battery_only_drains_until_it_is_swapped(seed: int) -> None:
    a_ride = ride(seed)
    swaps = 0
    for _ in range(8 * 3600):
        charge, battery_id = a_ride.battery_percent, a_ride.battery_id
        happened = a_ride.advance(1.0)
        swapped = any(each.ev == "battery_charged" for each in happened)
        swaps += swapped
        assert (a_ride.battery_percent > charge) == swapped
        assert (a_ride.battery_id != battery_id) == swapped
        assert 0 <= a_ride.battery_percent <= 100
        assert 32_000 <= a_ride.battery_mv <= 42_000
    assert swaps >= 1


def test_a_trip_goes_through_the_lock_both_ways() -> None:
    a_ride = ride(3)
    locks: list[str] = []
    happenings: list[Happening] = []
    for _ in range(3600):
        happenings += a_ride.advance(1.0)
        if not locks or locks[-1] != a_ride.lock:
            locks.append(a_ride.lock)

    follows = {("locked", "moving"), ("moving", "unlocked"), ("unlocked", "moving")}
    follows.add(("moving", "locked"))
    assert set(itertools.pairwise(locks)) == follows
    assert {"trip_start", "trip_end"} <= {each.ev for each in happenings}


def test_a_scooter_that_fell_over_is_locked_and_gets_picked_up() -> None:
    a_ride = ride(1, falls_per_h=60.0)
    tipped: list[bool] = []
    falls = 0
    for _ in range(3600):
        falls += sum(each.ev == "fall" for each in a_ride.advance(1.0))
        assert not (a_ride.tipped_over and a_ride.doing is Doing.RIDING)
        if not tipped or tipped[-1] != a_ride.tipped_over:
            tipped.append(a_ride.tipped_over)
    assert falls == sum(tipped) >= 2


def test_one_long_step_is_the_same_as_many_short_ones() -> None:
    long, short = ride(5), ride(5)
    happenings = [each for _ in range(600) for each in short.advance(1.0)]

    assert long.advance(600.0) == happenings
    assert long.position == short.position


def test_a_scooter_that_nobody_rides_stays_locked_until_it_is_told() -> None:
    a_ride = Ride(CITY, random.Random(3), rides=False)  # noqa: S311 - no secret
    assert a_ride.advance(4 * 3600) == []
    assert a_ride.lock == "locked"
    a_ride.turn_bolt("unlocked")
    assert a_ride.lock == "moving"
    a_ride.advance(3600)
    assert (a_ride.lock, a_ride.speed_kmh) == ("unlocked", 0)
    a_ride.turn_bolt("locked")
    a_ride.advance(2)
    assert a_ride.lock == "locked"


def test_a_trip_that_a_command_began_is_told_and_ends_in_a_lock() -> None:
    a_ride = ride(5)
    while a_ride.lock != "locked":
        a_ride.advance(1)
    a_ride.turn_bolt("unlocked")
    told: list[Happening] = []
    while a_ride.lock != "locked":
        told += a_ride.advance(1)
    assert [each.ev for each in told if each.ev.startswith("trip")] == ["trip_start", "trip_end"]


def test_a_speed_limit_is_kept() -> None:
    a_ride = ride(1)
    a_ride.limit_kmh = 10
    a_ride.advance(600)
    for _ in range(3000):
        a_ride.advance(1)
        assert a_ride.speed_kmh <= 10


def test_a_bolt_that_sticks_is_jammed_until_somebody_comes() -> None:
    a_ride = Ride(CITY, random.Random(3), rides=False)  # noqa: S311 - no secret
    a_ride.turn_bolt("unlocked", sticks=True)
    assert [each.ev for each in a_ride.advance(3)] == ["fault"]
    assert a_ride.lock == "jammed"
    a_ride.turn_bolt("unlocked")
    a_ride.advance(3)
    assert a_ride.lock == "unlocked"
