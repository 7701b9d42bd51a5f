"""A boot number that is used again: another life of the scooter, or a birth that came late."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.command_office import Office, open_office, request
from tests.telemetry import Fleet, batch, status, telemetry

TEN_DAYS_MS = 864_000_000
NEW_LIFE: dict[str, Any] = {"boot": 1, "conn": 1, "up": 5000}


@pytest.fixture
async def office(postgres_url: str, redis: Redis) -> AsyncIterator[Office]:
    async with open_office(postgres_url, redis) as office:
        yield office


async def live(fleet: Fleet, scooter_id: str, boot: int = 1, **fields: object) -> None:
    """A boot of ten days."""
    told: dict[str, Any] = {"batt": 90, "lock": "unlocked", "up": TEN_DAYS_MS} | fields
    await fleet.after(60, status(scooter_id, "online", boot=boot, conn=1, up=1000))
    await fleet.after(60, telemetry(scooter_id, boot=boot, seq=5000, **told))


FORMER = pytest.mark.parametrize("former", [[1], [1, 2, 3]], ids=["the last boot", "set aside"])


@FORMER
async def test_reports_of_a_new_life_are_applied_though_its_boot_number_was_used_before(
    fleet: Fleet, scooter_id: str, former: list[int]
) -> None:
    for boot in former:
        await live(fleet, scooter_id, boot)

    await fleet.after(3600, status(scooter_id, "online", **NEW_LIFE))
    assert (await fleet.state(scooter_id))["battery_percent"] == "90"
    report = telemetry(scooter_id, boot=1, seq=1, up=6000, lock="locked")
    assert await fleet.after(1, report) == ["applied"]

    state = await fleet.state(scooter_id)
    assert (state["boot"], state["lock"], state["uptime_ms"]) == ("1", "locked", "6000")
    assert await fleet.take(report) == ["duplicate"]
    assert await fleet.take(telemetry(scooter_id, boot=1, seq=2, batt=80)) == ["applied"]
    assert await fleet.take(telemetry(scooter_id, boot=1, seq=1, batt=70)) == ["late"]


@FORMER
@pytest.mark.parametrize("birth", [NEW_LIFE, {"boot": 1, "conn": 1}], ids=["up", "no up"])
async def test_the_next_command_counts_by_the_uptime_of_the_new_life(
    fleet: Fleet, office: Office, scooter_id: str, former: list[int], birth: dict[str, Any]
) -> None:
    for boot in former:
        await live(fleet, scooter_id, boot, lock="locked")
    await fleet.after(3600, status(scooter_id, "online", **birth))

    await office.ask(request(scooter_id))
    await office.dispatch()

    (sent,) = office.publisher.commands(scooter_id)
    assert sent.command.boot == 1
    assert sent.command.exp is not None
    assert sent.command.exp < 5000 + 20_000 + 5000


@pytest.mark.parametrize("former", [[1], [1, 2]], ids=["the last boot", "set aside"])
async def test_nothing_of_a_former_life_returns_with_a_reconnect(
    fleet: Fleet, scooter_id: str, former: list[int]
) -> None:
    for boot in former:
        await live(fleet, scooter_id, boot, batt=90 + boot)
    await fleet.after(3600, status(scooter_id, "online", **NEW_LIFE))

    await fleet.after(5, status(scooter_id, "online", boot=1, conn=2, up=10_000))

    state = await fleet.state(scooter_id)
    assert (state["battery_percent"], state["uptime_ms"]) == (str(90 + former[-1]), "10000")


async def test_the_firmware_of_the_new_life_is_shown(fleet: Fleet, scooter_id: str) -> None:
    await live(fleet, scooter_id, odo=9, fw="old")

    await fleet.after(3600, status(scooter_id, "online", **NEW_LIFE, fw="new"))

    state = await fleet.state(scooter_id)
    assert (state["firmware"], state["odometer_m"]) == ("new", "9")


@FORMER
async def test_what_a_former_life_said_last_does_not_count_behind_the_birth_of_the_next(
    fleet: Fleet, scooter_id: str, former: list[int]
) -> None:
    for boot in former:
        await live(fleet, scooter_id, boot)
    await fleet.after(3600, status(scooter_id, "online", **NEW_LIFE))

    said = {"boot": 1, "seq": 5001, "up": TEN_DAYS_MS + 5000, "lock": "unlocked"}
    assert await fleet.take(telemetry(scooter_id, **said)) == ["late"]
    assert await fleet.take(batch(scooter_id, said | {"seq": 4000})) == ["late"]

    assert (await fleet.state(scooter_id))["uptime_ms"] == "5000"
    assert await fleet.take(telemetry(scooter_id, boot=1, seq=1, up=6000)) == ["applied"]


async def test_a_former_life_that_was_heard_after_an_outage_is_not_taken_for_the_present_one(
    fleet: Fleet, scooter_id: str
) -> None:
    await fleet.take(status(scooter_id, "online", boot=1, conn=1, up=TEN_DAYS_MS))
    await fleet.after(
        1800, telemetry(scooter_id, boot=1, seq=5000, up=TEN_DAYS_MS + 60_000, batt=90)
    )

    await fleet.take(status(scooter_id, "online", **NEW_LIFE))

    assert await fleet.take(telemetry(scooter_id, boot=1, seq=1, batt=50)) == ["applied"]


@pytest.mark.parametrize("up", [5000, TEN_DAYS_MS], ids=["first birth", "reconnect"])
async def test_a_birth_that_its_reports_overtook_leaves_their_order(
    fleet: Fleet, scooter_id: str, up: int
) -> None:
    await fleet.take(telemetry(scooter_id, boot=1, seq=1, up=up + 100))
    await fleet.after(3, telemetry(scooter_id, boot=1, seq=9, up=up + 3100, batt=9))

    await fleet.after(1, status(scooter_id, "online", boot=1, conn=1, up=up))

    assert await fleet.take(telemetry(scooter_id, boot=1, seq=8, batt=8)) == ["late"]
    state = await fleet.state(scooter_id)
    assert (state["battery_percent"], state["uptime_ms"]) == ("9", str(up))


@pytest.mark.parametrize("heard_for_s", [1, 1800], ids=["killed after it", "heard meanwhile"])
async def test_a_birth_that_comes_again_much_later_only_shortens_times_until_the_next_report(
    fleet: Fleet, scooter_id: str, heard_for_s: int
) -> None:
    birth = status(scooter_id, "online", **NEW_LIFE)
    await fleet.take(birth)
    up = 5000 + heard_for_s * 1000
    await fleet.after(heard_for_s, telemetry(scooter_id, boot=1, seq=9, up=up, batt=9))

    away_s = 3600 if heard_for_s == 1 else 4
    await fleet.after(away_s, birth)

    assert (await fleet.state(scooter_id))["uptime_ms"] == "5000"
    assert await fleet.take(telemetry(scooter_id, boot=1, seq=8, up=up - 1, batt=8)) == ["late"]
    up += away_s * 1000
    assert await fleet.take(telemetry(scooter_id, boot=1, seq=10, up=up)) == ["applied"]
    state = await fleet.state(scooter_id)
    assert (state["battery_percent"], state["uptime_ms"]) == ("9", str(up))


async def test_a_life_that_was_wrongly_taken_as_over_counts_again_after_a_minute(
    fleet: Fleet, scooter_id: str
) -> None:
    await live(fleet, scooter_id)
    await fleet.after(3600, status(scooter_id, "online", boot=1, conn=1, up=1000))
    await fleet.after(59, telemetry(scooter_id, boot=1, seq=5001, up=TEN_DAYS_MS + 3_659_000))
    assert (await fleet.state(scooter_id))["uptime_ms"] == "1000"

    later = telemetry(scooter_id, boot=1, seq=5002, up=TEN_DAYS_MS + 3_660_000, batt=50)
    assert await fleet.after(1, later) == ["applied"]

    state = await fleet.state(scooter_id)
    assert (state["battery_percent"], state["uptime_ms"]) == ("50", str(TEN_DAYS_MS + 3_660_000))
