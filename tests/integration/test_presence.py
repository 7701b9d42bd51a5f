"""Online, stale, sleeping, offline, lost: what statuses, reports and silence make of presence."""

from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.links.delivery import Delivery
from gateway.metrics import Metrics
from gateway.telemetry.presence import sweep
from tests.telemetry import NOW_MS, Fleet, batch, event, status, telemetry

ID = "SC-0001"
BORN: dict[str, Any] = {"boot": 5, "conn": 7}


async def presence(fleet: Fleet) -> str | None:
    return (await fleet.state(ID)).get("presence")


async def test_a_birth_makes_a_scooter_online_and_seen(fleet: Fleet) -> None:
    birth = status(ID, "online", **BORN, up=900, ivl=5, fw="2.4.1")

    assert await fleet.take(birth) == ["presence"]

    state = await fleet.state(ID)
    assert (state["presence"], state["presence_at"]) == ("online", str(NOW_MS))
    assert (state["boot"], state["uptime_ms"], state["interval_s"]) == ("5", "900", "5")
    assert (state["firmware"], state["received_at"]) == ("2.4.1", str(NOW_MS))
    assert await fleet.redis.zscore("scooters:last_seen", ID) == NOW_MS


@pytest.mark.parametrize("ivl", [5, 20.5])
async def test_silence_of_three_intervals_makes_stale_and_a_report_online(
    fleet: Fleet, ivl: float
) -> None:
    await fleet.take(telemetry(ID, boot=5, seq=1, ivl=ivl))
    await fleet.after(ivl, telemetry(ID, boot=5, seq=2))

    await fleet.sweep_after(ivl * 3 - 0.01)
    assert await presence(fleet) == "online"
    await fleet.sweep_after(0.01)
    assert await presence(fleet) == "stale"
    await fleet.take(telemetry(ID, boot=5, seq=3))
    assert await presence(fleet) == "online"


async def test_without_an_interval_the_setting_tells_when_silence_is_stale(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, batt=5))

    await fleet.sweep_after(179)
    assert await presence(fleet) == "online"
    await fleet.sweep_after(1)
    assert await presence(fleet) == "stale"


async def test_a_shorter_interval_counts_from_the_report_that_told_it(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=5, seq=1, ivl=600))
    await fleet.take(telemetry(ID, boot=5, seq=2, ivl=5), telemetry(ID, boot=5, seq=3, ivl=5))

    await fleet.sweep_after(15)

    assert await presence(fleet) == "stale"


async def test_a_longer_interval_counts_from_the_report_that_told_it(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=5, seq=1, ivl=5), telemetry(ID, boot=5, seq=2, ivl=600))

    await fleet.sweep_after(1799)

    assert await presence(fleet) == "online"


@pytest.mark.parametrize(
    "unheard",
    [
        batch(ID, {"boot": 5, "seq": 9, "batt": 5}),
        telemetry(ID, boot=5, seq=1),
        telemetry(ID, boot=5, seq=0),
        status(ID, "online", retain=True, **BORN),
    ],
    ids=["batch", "duplicate", "late", "retained birth"],
)
async def test_only_a_birth_or_an_applied_live_report_breaks_the_silence(
    fleet: Fleet, unheard: Delivery
) -> None:
    await fleet.take(status(ID, "online", **BORN), telemetry(ID, boot=5, seq=1, ivl=5))
    await fleet.sweep_after(60)

    await fleet.take(unheard)

    state = await fleet.state(ID)
    assert (state["presence"], state["received_at"]) == ("stale", str(NOW_MS))


async def test_an_event_that_is_newer_counts_as_heard(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=5, seq=1, ivl=5))
    await fleet.sweep_after(60)

    await fleet.take(event(ID, "5-1", boot=5, seq=2))

    assert await presence(fleet) == "online"


@pytest.mark.parametrize("goodbye", ["sleeping", "offline"])
async def test_a_goodbye_is_shown_and_its_silence_is_not_remarkable(
    fleet: Fleet, goodbye: str
) -> None:
    await fleet.take(status(ID, "online", **BORN, ivl=5))
    await fleet.take(status(ID, goodbye, **BORN, up=1000, wake=3600))
    await fleet.sweep_after(100_000)

    state = await fleet.state(ID)
    assert (state["presence"], state["wake_s"]) == (goodbye, "3600")


async def test_a_report_sent_before_the_goodbye_does_not_wake(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "sleeping", **BORN, up=10_000))

    assert await fleet.after(9.9, telemetry(ID, boot=5, seq=1, up=9_000, batt=5)) == ["applied"]

    state = await fleet.state(ID)
    assert (state["presence"], state["battery_percent"]) == ("sleeping", "5")


@pytest.mark.parametrize(
    ("after_s", "report"),
    [
        (1, {"boot": 5, "seq": 1, "up": 10_001}),
        (10, {"boot": 5, "seq": 1, "up": 9_000}),
        (10, {"batt": 5}),
    ],
    ids=["larger uptime", "ten seconds later", "without numbers"],
)
async def test_a_report_sent_after_the_goodbye_wakes(
    fleet: Fleet, after_s: float, report: dict[str, Any]
) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "sleeping", **BORN, up=10_000, wake=60))

    await fleet.after(after_s, telemetry(ID, **report))

    state = await fleet.state(ID)
    assert state["presence"] == "online"
    assert "wake_s" not in state
    await fleet.take(status(ID, "lost", **BORN))
    await fleet.sweep_after(10)
    assert await presence(fleet) == "lost"


async def test_a_will_makes_lost_after_ten_silent_seconds(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.after(1, status(ID, "lost", **BORN))

    await fleet.sweep_after(9.9)
    assert await presence(fleet) == "online"
    await fleet.sweep_after(0.1)
    assert await presence(fleet) == "lost"
    await fleet.after(1, telemetry(ID, boot=5, seq=1))
    assert await presence(fleet) == "online"


async def test_a_report_that_its_will_overtook_does_not_save_the_scooter(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "lost", **BORN))
    await fleet.after(0.9, telemetry(ID, boot=5, seq=1, ivl=60))

    await fleet.sweep_after(9.1)
    assert await presence(fleet) == "lost"


async def test_a_scooter_that_is_heard_after_its_will_is_not_lost(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "lost", **BORN))
    await fleet.after(1, telemetry(ID, boot=5, seq=1, ivl=60))

    await fleet.sweep_after(15)
    assert await presence(fleet) == "online"
    await fleet.sweep_after(180)
    assert await presence(fleet) == "stale"


@pytest.mark.parametrize(
    "late",
    [{"boot": 5, "conn": 6}, {"boot": 4, "conn": 9}, {"boot": 6, "conn": 1}],
    ids=["older connection", "older boot", "boot without birth"],
)
@pytest.mark.parametrize("farewell", ["lost", "sleeping"])
async def test_the_farewell_of_another_connection_is_ignored(
    fleet: Fleet, late: dict[str, Any], farewell: str
) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, farewell, **late))

    await fleet.sweep_after(15)

    assert await presence(fleet) == "online"


async def test_a_will_after_the_next_birth_is_ignored_though_its_boot_was_higher(
    fleet: Fleet,
) -> None:
    await fleet.take(status(ID, "online", boot=100, conn=3), status(ID, "online", boot=1, conn=1))
    await fleet.take(status(ID, "lost", boot=100, conn=3))
    await fleet.take(status(ID, "lost", retain=True, boot=100, conn=3))

    await fleet.sweep_after(15)

    assert await presence(fleet) == "online"


async def test_a_birth_takes_back_the_will_of_the_connection_before(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "lost", **BORN))
    await fleet.take(status(ID, "online", boot=5, conn=8))

    await fleet.sweep_after(15)

    assert await presence(fleet) == "online"


async def test_a_will_after_a_goodbye_is_ignored(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "offline", **BORN), status(ID, "lost", **BORN))

    await fleet.sweep_after(15)

    assert await presence(fleet) == "offline"


async def test_a_sweep_counts_who_became_stale_or_lost_and_goes_through_all(
    redis: Redis,
) -> None:
    fleet, metrics = Fleet(redis), Metrics()
    await fleet.load()
    fleet.now_ms = 1_700_000_000_000  # long ago: everyone is due
    await fleet.take(*(telemetry(f"SC-{n:04}", batt=1) for n in range(700)))
    await fleet.take(status("SC-0000", "lost"))

    await sweep(fleet.states, metrics)

    for became, count in (("stale", 699), ("lost", 1)):
        labels = {"presence": became}
        assert metrics.registry.get_sample_value("gateway_presence_changes_total", labels) == count
    assert await redis.zcard("scooters:deadlines") == 0


async def test_a_clock_that_steps_back_does_not_keep_a_scooter_asleep(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    await fleet.take(status(ID, "sleeping", **BORN))

    await fleet.after(-3600, telemetry(ID, boot=5, seq=1, batt=5))

    assert await presence(fleet) == "online"
