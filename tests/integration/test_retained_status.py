"""What births and retained statuses say about a scooter that is known, and one that is not."""

from typing import Any

import pytest

from devices.contract.topics import Uplink
from tests.telemetry import Fleet, delivery, status, telemetry

ID = "SC-0001"
BORN: dict[str, Any] = {"boot": 5, "conn": 7}


async def presence(fleet: Fleet) -> str | None:
    return (await fleet.state(ID)).get("presence")


@pytest.mark.parametrize("s", ["online", "sleeping", "offline", "lost"])
async def test_a_retained_status_rebuilds_the_view_but_is_not_seen(fleet: Fleet, s: str) -> None:
    assert await fleet.take(status(ID, s, retain=True, **BORN, up=5, wake=9)) == ["presence"]
    await fleet.sweep_after(10)

    state = await fleet.state(ID)
    assert state["presence"] == s
    assert not {"received_at", "uptime_ms"} & state.keys()
    assert await fleet.redis.zscore("scooters:last_seen", ID) is None


async def test_a_retained_online_of_a_silent_scooter_becomes_stale(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", retain=True, **BORN))

    await fleet.sweep_after(180)

    assert await presence(fleet) == "stale"


@pytest.mark.parametrize("s", ["online", "sleeping", "lost"])
async def test_a_retained_status_that_is_known_changes_nothing(fleet: Fleet, s: str) -> None:
    await fleet.take(status(ID, "online", **BORN, ivl=5))
    if s != "online":
        await fleet.take(status(ID, s, **BORN, up=5))
    await fleet.sweep_after(11)
    before = await fleet.everything(ID)

    await fleet.after(30, status(ID, s, retain=True, **BORN, up=5))

    assert await fleet.everything(ID) == before


async def test_a_retained_goodbye_of_a_later_boot_tells_what_was_missed(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))

    await fleet.take(status(ID, "sleeping", retain=True, boot=6, conn=2))

    assert await presence(fleet) == "sleeping"


async def test_a_retained_birth_does_not_reorder_the_boots(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=9, seq=1, batt=9))

    await fleet.take(status(ID, "online", retain=True, boot=3, conn=1))

    assert await fleet.take(telemetry(ID, boot=3, seq=5, batt=3)) == ["late"]


async def test_a_cleared_status_changes_nothing(fleet: Fleet) -> None:
    await fleet.take(status(ID, "online", **BORN))
    before = await fleet.everything(ID)

    assert await fleet.take(delivery(ID, Uplink.STATUS, b"", retain=True)) == ["presence"]

    assert await fleet.everything(ID) == before


async def test_the_interval_of_a_birth_holds_until_a_report_of_its_boot_tells_another(
    fleet: Fleet,
) -> None:
    await fleet.take(status(ID, "online", **BORN, ivl=5))
    await fleet.take(status(ID, "online", boot=5, conn=8, ivl=6))
    assert (await fleet.state(ID))["interval_s"] == "6"

    await fleet.take(telemetry(ID, boot=5, seq=1, ivl=60))
    await fleet.take(status(ID, "online", boot=5, conn=9, ivl=7))
    assert (await fleet.state(ID))["interval_s"] == "60"


async def test_the_firmware_of_a_birth_gives_way_to_the_group_of_its_boot(fleet: Fleet) -> None:
    await fleet.take(telemetry(ID, boot=4, seq=1, odo=9, fw="old"))
    await fleet.take(status(ID, "online", **BORN, fw="new"))
    state = await fleet.state(ID)
    assert (state["firmware"], state["odometer_m"]) == ("new", "9")

    await fleet.take(telemetry(ID, boot=5, seq=1, odo=10))

    assert "firmware" not in await fleet.state(ID)
