"""What one call of `advance` does to states and history, on a real Redis."""

import orjson
import pytest
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.storage.redis import open_redis
from gateway.telemetry.state_store import LOADED
from tests.telemetry import FULL_REPORT, NOW_MS, Fleet, batch, event, status, telemetry

ID = "SC-0001"


async def test_every_field_reads_back_as_it_was_sent(fleet: Fleet) -> None:
    assert await fleet.take(telemetry(ID, **FULL_REPORT)) == ["applied"]

    state = await fleet.state(ID)
    assert state | {"version": ""} == {
        "received_at": str(NOW_MS),
        "recorded_at": str(NOW_MS - 500),
        "boot": "12",
        "uptime_ms": "86400123",
        "uptime_at": state["uptime_at"],  # by Redis' clock
        "uptime_boot": "12",
        "interval_s": "5",
        "lat": "52.5200081",
        "lon": "-13.4049541",
        "accuracy_m": "4.5",
        "speed_kmh": "18.3",
        "heading_deg": "271",
        "position_at": str(NOW_MS - 500),
        "battery_percent": "87",
        "battery_mv": "40700",
        "range_m": "21750",
        "charging": "false",
        "battery_id": "B204817",
        "battery_at": str(NOW_MS - 500),
        "lock": "unlocked",
        "tipped_over": "true",
        "lock_at": str(NOW_MS - 500),
        "odometer_m": "999999999.5",
        "signal_dbm": "-71",
        "firmware": "2.4.1",
        "device_at": str(NOW_MS - 500),
        "presence": "online",
        "presence_at": str(NOW_MS),
        **{f"{group}_order": f"12:481:{NOW_MS - 500}:11111" for group in ("position", "battery")},
        "lock_order": f"12:481:{NOW_MS - 500}:11",
        "device_order": f"12:481:{NOW_MS - 500}:111",
        "interval_order": f"12:481:{NOW_MS - 500}:1",
        "report_order": f"12:481:{NOW_MS - 500}:",
        "version": "",
    }


async def test_a_group_is_replaced_whole_and_the_others_stay(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, **FULL_REPORT))
    later = {"ts": NOW_MS + 900, "boot": 12, "seq": 482, "lat": 1, "lon": 2, "batt": None}

    await fleet.after(1, telemetry(ID, **later))

    state = await fleet.state(ID)
    assert (state["lat"], state["lon"], state["position_at"]) == ("1", "2", str(NOW_MS + 900))
    gone = {"accuracy_m", "speed_kmh", "heading_deg", "battery_percent", "battery_id", "charging"}
    assert not gone & state.keys()
    assert (state["lock"], state["lock_at"]) == ("unlocked", str(NOW_MS - 500))
    assert state["battery_at"] == str(NOW_MS + 900)


async def test_no_fix_leaves_the_position_as_it_was(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, **FULL_REPORT))
    await fleet.take(telemetry(ID, boot=12, seq=482, lat=0, lon=0.0, spd=9, batt=5))

    state = await fleet.state(ID)
    assert (state["lat"], state["speed_kmh"]) == ("52.5200081", "18.3")
    assert state["battery_percent"] == "5"


@pytest.mark.parametrize("ts", [NOW_MS + 60_001, 1_577_836_799_999, 0])
async def test_a_clock_that_is_not_believed_gives_way_to_the_arrival(fleet: Fleet, ts: int) -> None:
    await fleet.take(telemetry(ID, ts=ts, boot=1, seq=1, batt=5))

    state = await fleet.state(ID)
    assert state["battery_at"] == str(NOW_MS)
    assert "recorded_at" not in state


async def test_a_clock_a_minute_ahead_is_believed(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, ts=NOW_MS + 60_000, batt=5))

    assert (await fleet.state(ID))["battery_at"] == str(NOW_MS + 60_000)


async def test_a_sample_without_a_believed_clock_has_no_time_of_measurement(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=5, lat=1, lon=2))
    await fleet.take(batch(ID, {"boot": 1, "seq": 2, "batt": 6}))

    state = await fleet.state(ID)
    assert state["battery_percent"] == "6"
    assert "battery_at" not in state
    assert state["position_at"] == str(NOW_MS)


@pytest.mark.parametrize(
    "report",
    [FULL_REPORT, {"boot": 1, "seq": 1}, {"ts": NOW_MS - 5, "batt": 1, "lock": "locked"}],
    ids=["full", "bare", "without numbers"],
)
async def test_a_duplicate_changes_nothing(fleet: Fleet, report: dict[str, object]) -> None:
    await fleet.take(telemetry(ID, **report))
    before = await fleet.everything(ID)

    assert await fleet.after(5, telemetry(ID, **report)) == ["duplicate"]

    assert await fleet.everything(ID) == before
    assert await fleet.history() == []


async def test_a_report_may_be_newer_in_one_group_and_late_in_another(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=5, batt=5))

    assert await fleet.take(telemetry(ID, boot=1, seq=4, batt=4, lock="locked")) == ["applied"]

    state = await fleet.state(ID)
    assert (state["battery_percent"], state["lock"]) == ("5", "locked")
    assert [kind for kind, _, _ in await fleet.history()] == ["late"]


async def test_without_numbers_the_clock_decides_and_without_a_clock_the_arrival(
    fleet: Fleet,
) -> None:
    await fleet.take(telemetry(ID, ts=NOW_MS - 10, batt=1))
    assert await fleet.take(telemetry(ID, ts=NOW_MS - 20, batt=2)) == ["late"]
    assert await fleet.take(telemetry(ID, batt=3)) == ["applied"]
    assert await fleet.take(telemetry(ID, boot=7, batt=4)) == ["applied"]
    assert await fleet.take(batch(ID, {"batt": 5}, {"seq": 9, "batt": 6})) == ["late"]

    assert (await fleet.state(ID))["battery_percent"] == "4"
    assert len(await fleet.history()) == 3


async def test_a_report_without_numbers_does_not_let_an_older_numbered_one_return(
    fleet: Fleet,
) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=9, lat=1, lon=1))
    await fleet.take(event(ID, "e", ts=NOW_MS, lat=2, lon=2), telemetry(ID, lat=3, lon=3))

    await fleet.take(telemetry(ID, boot=1, seq=7, lat=4, lon=4))
    await fleet.take(telemetry(ID, boot=1, seq=8, batt=5))

    state = await fleet.state(ID)
    assert (state["lat"], state["position_order"]) == ("3", "1:9:0:11000")


async def test_the_position_index_follows_the_state(fleet: Fleet) -> None:
    await fleet.take(
        telemetry("SC-0001", boot=1, seq=1, lat=52.52, lon=13.40),
        telemetry("SC-0002", boot=1, seq=1, lat=52.53, lon=13.40),
        telemetry("SC-0003", boot=1, seq=1, lat=52.52, lon=13.40),
        telemetry("SC-0004", boot=1, seq=1, lat=52.52, lon=13.40),
        telemetry("SC-0005", boot=1, seq=1, lat=-90, lon=180),
    )
    await fleet.take(
        telemetry("SC-0003", boot=1, seq=2, lat=None, lon=None),
        telemetry("SC-0004", boot=1, seq=2, lat=85.1, lon=13.40),
    )

    found = await fleet.states.near(52.52, 13.40, within_m=2000)

    assert [scooter_id for scooter_id, _ in found] == ["SC-0001", "SC-0002"]
    assert found[1][1] == pytest.approx(1112, abs=5)
    assert (await fleet.state("SC-0004"))["lat"] == "85.1"
    assert (await fleet.state("SC-0005"))["lon"] == "180"


async def test_changes_are_told_to_who_listens(fleet: Fleet) -> None:
    async with fleet.redis.pubsub() as listener:
        await listener.subscribe("scooters:changes")
        assert await listener.get_message(timeout=5) is not None
        await fleet.take(telemetry(ID, boot=1, seq=1, batt=5, bid="B"))
        await fleet.take(telemetry(ID, boot=1, seq=2, batt=6))
        told = [await listener.get_message(timeout=5) for _ in range(2)]

    first, second = (orjson.loads(message["data"]) for message in told if message)
    assert first["scooter_id"] == ID
    assert (first["fields"]["battery_percent"], first["fields"]["battery_id"]) == ("5", "B")
    assert (second["fields"]["battery_percent"], second["fields"]["battery_id"]) == ("6", None)
    assert not {"internal", "aside", "report_order"} & first["fields"].keys()


async def test_reset_order_makes_the_next_report_newer_whatever_its_numbers(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", boot=90, conn=1, fw="9"))
    await fleet.take(telemetry(ID, boot=90, seq=90, lat=1, lon=1, spd=5, up=9))

    assert await fleet.states.reset_order(ID)
    await fleet.take(telemetry(ID, boot=2, seq=1, lat=2, lon=2, up=1))

    state = await fleet.state(ID)
    assert (state["lat"], state["boot"], state["uptime_ms"]) == ("2", "2", "1")
    assert "speed_kmh" not in state
    assert not await fleet.states.reset_order("nobody")


async def test_only_the_last_four_boots_are_remembered(fleet: Fleet) -> None:
    for boot in (9, 8, 7, 6, 5):
        await fleet.take(status(ID, "online", boot=boot, conn=1))
    await fleet.take(telemetry(ID, boot=8, seq=1, batt=8), telemetry(ID, boot=5, seq=1, batt=5))
    before = await fleet.everything(ID)

    assert await fleet.take(telemetry(ID, boot=4, seq=1, batt=4, up=4)) == ["late"]

    assert await fleet.everything(ID) == before
    await fleet.take(status(ID, "online", boot=8, conn=2))
    assert (await fleet.state(ID))["battery_percent"] == "8"


async def test_what_was_set_aside_of_a_forgotten_boot_does_not_return(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", boot=1, conn=1), telemetry(ID, boot=1, seq=1, batt=1))
    await fleet.take(status(ID, "online", boot=2, conn=1), telemetry(ID, boot=2, seq=1, batt=2))
    for boot in (3, 4, 5):
        await fleet.take(status(ID, "online", boot=boot, conn=1))

    for conn in (2, 3):
        await fleet.take(status(ID, "online", boot=1, conn=conn))

    assert (await fleet.state(ID))["battery_percent"] == "2"


async def test_versions_grow_and_only_a_change_makes_one(fleet: Fleet) -> None:
    versions = []
    for seq in (1, 2, 2, 1, 3):
        await fleet.take(telemetry(ID, boot=1, seq=seq, batt=seq))
        versions.append(int((await fleet.state(ID))["version"]))

    first, second, third, fourth, fifth = versions
    assert first < second == third == fourth < fifth
    assert await fleet.redis.zcard("scooters:dirty") == 1


async def test_a_redis_that_does_not_answer_is_away(redis: Redis) -> None:
    async with open_redis("redis://127.0.0.1:1") as nobody:
        fleet = Fleet(nobody)
        with pytest.raises(ServerAway):
            await fleet.take(telemetry(ID, batt=1))
        with pytest.raises(ServerAway):
            await fleet.states.read(ID)
    assert await redis.exists(LOADED) == 0


async def test_nothing_is_told_as_applied_that_an_unreadable_hash_kept_from_being_stored(
    fleet: Fleet,
) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=50), telemetry("SC-0002", batt=1))
    await fleet.redis.hset(f"scooter:{ID}", "internal", '{"boots":[1,2]}')

    outcomes = await fleet.take(
        telemetry(ID, boot=1, seq=2, batt=40),
        telemetry(ID, boot=7, seq=1, batt=30),
        telemetry("SC-0002", batt=2),
    )

    stored = (await fleet.state(ID))["battery_percent"]
    assert (outcomes, stored) == (["foreign", "foreign", "applied"], "50")
