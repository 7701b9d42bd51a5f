"""How a report is spelt out in the state: groups, orders, and numbers that read back the same."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from redis import Redis as BlockingRedis

from gateway.telemetry.entries import entry_of
from gateway.telemetry.scripts import FOLDED, script
from gateway.telemetry.state_store import LOADED
from tests.telemetry import NOW_MS, Fleet, telemetry

ID = "SC-0001"


async def test_a_group_of_which_one_key_was_sent_was_sent_whole(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, lock="locked", mv=5, batt=7, fw="1"))

    await fleet.take(telemetry(ID, boot=1, seq=2, lock=None, mv=0, sig=-0.0))

    state = await fleet.state(ID)
    assert {name: state.get(name) for name in ("lock", "battery_percent", "firmware")} == {
        "lock": None,
        "battery_percent": None,
        "firmware": None,
    }
    assert (state["battery_mv"], float(state["signal_dbm"])) == ("0", 0)
    assert (state["battery_order"], state["lock_order"]) == ("1:2:0:01000", "1:2:0:00")


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ({"boot": 0, "seq": 0, "ts": NOW_MS}, f"0:0:{NOW_MS}:"),
        ({"boot": 2**32 - 1, "seq": 2**32 - 1}, "4294967295:4294967295:0:"),
        ({"boot": 1, "ts": NOW_MS}, f"-1:-1:{NOW_MS}:"),
        ({"seq": 1, "boot": None}, "-1:-1:0:"),
        ({"ts": NOW_MS + 60_000}, f"-1:-1:{NOW_MS + 60_000}:"),
        ({"ts": NOW_MS + 60_001}, "-1:-1:0:"),
        ({"ts": 1_577_836_800_000}, "-1:-1:1577836800000:"),
        ({"ts": 1_577_836_799_999}, "-1:-1:0:"),
        ({"ts": None}, "-1:-1:0:"),
    ],
)
async def test_an_order_has_numbers_only_together_and_a_clock_only_if_believed(
    fleet: Fleet, fields: dict[str, Any], order: str
) -> None:
    await fleet.take(telemetry(ID, **fields))

    assert (await fleet.state(ID))["report_order"] == order


NUMBERS = {
    "position": {"lat": (-90, 90), "lon": (-180, 180), "acc": (0, 1e6), "spd": (0, 200)},
    "battery": {"batt": (0, 100), "mv": (0, 200_000), "rng": (0, 1e6)},
    "device": {"odo": (0, 1e9), "sig": (-200, 0)},
}
QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@QUICK
@given(data=st.data())
def test_decimal_text_reads_back_as_the_number_that_was_sent(
    redis_url: str, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from(sorted(NUMBERS)))
    said = {
        wire: _rounded(data.draw(st.floats(*bounds)), data.draw(st.integers(0, 15)))
        for wire, bounds in NUMBERS[group].items()
    }
    assert said != {"lat": 0, "lon": 0}
    assume(said.get("lat", 1) or said["lon"])  # (0, 0) is no position
    batch = {"at": NOW_MS, "entries": [entry_of(telemetry(ID, **said, hdg=1))]}
    with BlockingRedis.from_url(redis_url) as redis:
        redis.delete(f"scooter:{ID}")
        redis.set(LOADED, 1)
        redis.register_script(script("advance"))(args=[orjson.dumps(batch), 1 << 40, 180_000])
        state: Any = redis.hgetall(f"scooter:{ID}")

    names = FOLDED[group]
    assert {wire: float(state[names[wire].encode()]) for wire in said} == said


def _rounded(number: float, digits: int) -> float:
    """At most 15 digits, which every double keeps."""
    return float(f"{round(number, digits):.15g}")
