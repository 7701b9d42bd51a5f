"""What `advance` keeps in the history, what it refuses, and what it leaves alone."""

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from devices.contract.topics import Uplink
from gateway.errors import StateLost
from gateway.telemetry.decode import Fields
from gateway.telemetry.entries import entry_of
from tests.history import counted, recount
from tests.telemetry import (
    FULL_REPORT,
    NOW_MS,
    Fleet,
    ack,
    batch,
    delivery,
    event,
    status,
    telemetry,
)

ID = "SC-0001"


async def test_a_late_report_changes_nothing_and_goes_to_the_history(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, **FULL_REPORT))
    before = await fleet.everything(ID)
    late = FULL_REPORT | {"seq": 480, "lat": 51.1234567, "odo": 123_456_789.123, "bid": 'a"\\\t'}

    assert await fleet.after(5, telemetry(ID, **late)) == ["late"]

    assert await fleet.everything(ID) == before
    kept = {name: value for name, value in late.items() if name != "ivl"}
    [(kind, scooter_id, body)] = await fleet.history()
    assert (kind, scooter_id) == ("late", ID)
    assert {name: value for name, value in body.items() if name != "ivl"} == kept


async def test_a_late_report_keeps_that_it_cleared_a_group(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=2, batt=5))
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=None, bid=None))

    assert await fleet.history() == [("late", ID, {"boot": 1, "seq": 1, "batt": None})]


async def test_every_sample_of_a_batch_is_folded_and_kept(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=5, lock="locked", ivl=7))
    samples: list[Fields] = [
        {"ts": NOW_MS - 90_000, "boot": 1, "seq": 6, "lat": 1.5, "lon": 2.5},
        {"ts": NOW_MS - 80_000, "boot": 1, "seq": 7, "batt": 50.0},
        {"ts": NOW_MS - 99_000, "boot": 1, "seq": 2, "lock": "jammed"},
    ]

    assert await fleet.take(batch(ID, *samples)) == ["applied"]

    state = await fleet.state(ID)
    assert (state["lat"], state["battery_percent"], state["lock"]) == ("1.5", "50", "locked")
    assert state["position_at"] == str(NOW_MS - 90_000)
    assert await fleet.history() == [("late", ID, sample) for sample in samples]
    assert await fleet.take(batch(ID, *samples[:2])) == ["duplicate"]
    assert await fleet.take(batch(ID, samples[2])) == ["late"]


async def test_the_good_samples_of_a_batch_are_kept_and_one_reject_names_the_bad(
    fleet: Fleet,
) -> None:
    good: list[Fields] = [{"boot": 1, "seq": 1, "batt": 1}, {"boot": 1, "seq": 3, "batt": 3}]
    bad = {"boot": 1, "seq": 2, "batt": 200}

    assert await fleet.take(batch(ID, good[0], bad, good[1])) == ["applied"]

    *kept, (kind, _, body) = await fleet.history()
    assert [each[2] for each in kept] == good
    assert kind == "reject"
    assert body["reason"].startswith("1.batt: ")
    assert (await fleet.state(ID))["battery_percent"] == "3"


async def test_an_event_is_always_in_the_history_and_its_position_folded(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=5, lat=5, lon=5, spd=3))
    told = {"ts": NOW_MS - 10, "boot": 1, "seq": 6, "lat": 6.0, "lon": 6.0}
    old = {"boot": 1, "seq": 4, "lat": 4.0, "lon": 4.0}

    assert await fleet.take(event(ID, "1", **told), event(ID, "2", **old)) == ["event", "event"]
    assert await fleet.take(event(ID, "1", **told)) == ["event"]

    state = await fleet.state(ID)
    assert (state["lat"], state["position_at"]) == ("6", str(NOW_MS - 10))
    assert "speed_kmh" not in state
    assert [(kind, body["id"]) for kind, _, body in await fleet.history()] == [
        ("event", "1"),
        ("event", "2"),
        ("event", "1"),
    ]


async def test_an_ack_folds_the_groups_that_its_command_changed(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=5, lock="unlocked", batt=4))

    outcomes = await fleet.take(
        ack(ID, boot=1, seq=7, lock="locked"), telemetry(ID, boot=1, seq=6, lock="moving")
    )

    assert outcomes == ["ack", "late"]
    assert (await fleet.state(ID))["lock"] == "locked"


async def test_the_bytes_of_the_history_are_what_a_recount_finds(fleet: Fleet) -> None:
    await fleet.take(
        batch(ID, {"batt": 1}, {"batt": 300}),
        event(ID, "é-1", d="größer"),
        delivery(ID, Uplink.TELEMETRY, b"\xff"),
        telemetry(ID, boot=2, seq=2, bid="å"),
        telemetry(ID, boot=2, seq=1, bid="å"),
        telemetry("no", batt=1),
    )

    assert await counted(fleet.redis) == await recount(fleet.redis) > 0


async def test_a_full_history_stops_events_and_batches_and_nothing_else(redis: Redis) -> None:
    fleet = Fleet(redis, history_max=1)
    await fleet.load()
    await fleet.take(event(ID, "first"), telemetry(ID, boot=1, seq=5, batt=5))
    before = await fleet.everything("SC-0002")
    entries = [
        entry_of(each)
        for each in (
            event("SC-0002", "e", boot=1, seq=1, lat=1, lon=1),
            batch("SC-0002", {"boot": 1, "seq": 1, "batt": 1}),
            delivery(ID, Uplink.TELEMETRY, b"?"),
            telemetry(ID, boot=1, seq=4, batt=4),
            telemetry(ID, boot=1, seq=6, batt=6),
        )
    ]

    advanced = await fleet.advance(entries)

    assert advanced.outcomes == ["full", "full", "rejected", "late", "applied"]
    assert advanced.dropped == 2
    assert await fleet.everything("SC-0002") == before
    assert (await fleet.state(ID))["battery_percent"] == "6"
    assert len(await fleet.history()) == 1


async def test_an_emptied_redis_keeps_nothing_of_a_batch(redis: Redis) -> None:
    fleet = Fleet(redis)

    with pytest.raises(StateLost):
        await fleet.take(telemetry(ID, batt=1), event(ID, "1"))

    assert await redis.dbsize() == 0


@pytest.mark.parametrize("kind", ["list", "order", "internal", "aside", "boots", "version"])
async def test_a_key_that_is_not_a_state_stops_only_its_own_scooter(
    fleet: Fleet, redis_admin: Redis, kind: str
) -> None:
    await fleet.load()
    key = f"scooter:{ID}"
    tampered: dict[str, dict[Any, Any]] = {
        "order": {"report_order": "x", "position_order": "::", "version": "5", "boot": "1"},
        "internal": {"internal": "[[", "version": "5"},
        "aside": {"aside": '"x"', "version": "5"},
        "boots": {"internal": orjson.dumps({"boots": [1, {"a": 2}]}), "version": "5"},
        "version": {"version": "none", "uptime_ms": "?", "interval_s": "-"},
    }
    if kind == "list":
        await redis_admin.rpush(key, "x")
    else:
        await redis_admin.hset(key, mapping=tampered[kind])

    outcomes = await fleet.take(
        telemetry("SC-0002", boot=1, seq=1, batt=1),
        telemetry(ID, boot=1, seq=1, lat=1, lon=1, up=5),
        status(ID, "online", boot=2, conn=1, ivl=4, fw="x"),
        telemetry(ID, boot=3, seq=1, batt=1),
        telemetry("SC-0003", boot=1, seq=1, batt=1),
    )

    assert (outcomes[0], outcomes[-1]) == ("applied", "applied")
    assert set(outcomes) <= {"applied", "presence", "foreign"}
    assert ("foreign" in outcomes) == (kind in {"list", "boots"})
