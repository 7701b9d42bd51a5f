"""Whether a request is carried out, and which word says why not."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract.commands import CANCEL, COMMANDS, UPTIME_MAX_MS, CommandStatus, Request
from devices.standing import Standing
from gateway.commands.facts import Facts
from gateway.commands.judging import AHEAD_MAX_MS, Circumstances, Policy, judge

NOW = 1_767_268_800_000
AT = 5000.0
WELL = Facts(
    presence="online",
    battery_percent=80.0,
    lock="locked",
    lock_order="1:1:0:11",
    boot=7,
    uptime_boot=7,
    uptime_ms=60_000,
    uptime_age_ms=1000,
    read_at=AT,
)
ABOUT = Circumstances(
    now_ms=NOW,
    at=AT,
    standing=Standing.ACTIVE,
    has_right=True,
    facts=WELL,
    policy=Policy(),
)
PARAMS: dict[str, dict[str, Any]] = {
    "headlight": {"on": True},
    "alarm": {"on": False},
    "set_speed_limit": {"kmh": 20},
    "set_report_interval": {"parked": 600},
    CANCEL: {"request_id": "0" * 16},
}


def request(command: str = "unlock", **changes: Any) -> Request:  # noqa: ANN401
    values: dict[str, Any] = {
        "ref": "r",
        "at": NOW,
        "scooter_id": "SC-0001",
        "command": command,
        "params": PARAMS.get(command, {}),
    }
    return Request(**values | changes)


def word(wanted: Request, about: Circumstances) -> str | None:
    """The first word of a refusal; None for what is accepted."""
    verdict = judge(wanted, about)
    if verdict.status is CommandStatus.REFUSED:
        assert verdict.detail is not None
        return verdict.detail.partition(":")[0]
    return None


def knowing(**changes: Any) -> Circumstances:  # noqa: ANN401
    return replace(ABOUT, facts=replace(WELL, **changes))


@pytest.mark.parametrize("command", [*COMMANDS, CANCEL])
def test_with_everything_in_order_each_command_is_sent(command: str) -> None:
    verdict = judge(request(command), ABOUT)
    assert verdict.status is CommandStatus.SENT
    assert verdict.detail is None


@pytest.mark.parametrize("command", COMMANDS)
def test_its_time_is_that_of_the_table_counted_from_the_request(command: str) -> None:
    verdict = judge(request(command, at=NOW - 1500), ABOUT)
    assert verdict.ttl_s == COMMANDS[command].ttl_s
    assert verdict.expires_ms == NOW - 1500 + COMMANDS[command].ttl_s * 1000


@pytest.mark.parametrize(
    ("wanted", "about", "reason"),
    [
        (request("explode"), ABOUT, "unknown_command"),
        (request("locate", params={"s": 99}), ABOUT, "bad_params"),
        (request(), replace(ABOUT, standing=None), "unknown_scooter"),
        (request(), replace(ABOUT, standing=Standing.RETIRED), "unknown_scooter"),
        (request(), replace(ABOUT, has_right=False), "no_right"),
        (request(), replace(ABOUT, standing=Standing.REGISTERED), "not_active"),
        (request(), replace(ABOUT, standing=Standing.SUSPENDED), "not_active"),
        (request("lock"), replace(ABOUT, standing=Standing.REGISTERED), None),
        (request(CANCEL), replace(ABOUT, standing=Standing.SUSPENDED), None),
        (request(ttl=20.5), ABOUT, "bad_request"),
        (request(ttl=19.5), ABOUT, None),
        (request(at=NOW - 19_000), ABOUT, None),
        (request(at=NOW - 19_001), ABOUT, "expired"),
        (request(ttl=0.9), ABOUT, "expired"),
        (request(at=NOW - 5000, ttl=5.0), ABOUT, "expired"),
        (request(at=NOW - 600_000), ABOUT, "expired"),
        (request(at=0), ABOUT, "expired"),
        (request(at=NOW + AHEAD_MAX_MS), ABOUT, None),
        (request(at=NOW + AHEAD_MAX_MS + 1), ABOUT, "clock_ahead"),
        (request(), knowing(presence="offline"), "away"),
        (request(), knowing(presence="sleeping"), "away"),
        (request(), knowing(presence="lost"), "away"),
        (request(), knowing(presence="stale"), None),
        (request("lock"), knowing(presence=None), None),
        (request(), knowing(uptime_ms=None), "no_uptime"),
        (request(), knowing(uptime_boot=None), "no_uptime"),
        (request(), knowing(boot=8), "no_uptime"),
        (request(), knowing(uptime_ms=UPTIME_MAX_MS), "no_uptime"),
        (request("lock"), knowing(uptime_ms=None), None),
        (request(force=True), knowing(uptime_ms=None), "no_uptime"),
        (request(), knowing(battery_percent=4.9), "low_battery"),
        (request(), knowing(battery_percent=None), None),
        (request(force=True), knowing(battery_percent=4.9), None),
        (request("lock"), knowing(battery_percent=0.0), None),
        (request("reboot"), knowing(lock="unlocked"), "not_locked"),
        (request("power_off"), knowing(lock="moving"), "not_locked"),
        (request("reboot"), knowing(lock=None), "not_locked"),
        (request("reboot", force=True), knowing(lock="unlocked"), None),
    ],
)
def test_a_refusal_begins_with_the_word_that_says_why(
    wanted: Request, about: Circumstances, reason: str | None
) -> None:
    assert word(wanted, about) == reason


@pytest.mark.parametrize("presence", ["online", "offline"])
@pytest.mark.parametrize(
    ("command", "standing"),
    [
        *((each, Standing.SUSPENDED) for each in COMMANDS),
        *((each, Standing.RETIRED) for each in COMMANDS),
        ("unlock", Standing.REGISTERED),
        ("unlock_battery", Standing.REGISTERED),
    ],
)
def test_a_scooter_that_no_command_may_reach_is_refused_by_its_standing_away_or_not(
    command: str, standing: Standing, presence: str
) -> None:
    verdict = judge(request(command), replace(knowing(presence=presence), standing=standing))
    assert verdict.status is CommandStatus.REFUSED
    assert str(verdict.detail).endswith(f" is {standing}")


def test_a_setting_allows_unlocking_without_uptime() -> None:
    about = replace(knowing(uptime_ms=None), policy=Policy(unlock_without_uptime=True))
    assert word(request(), about) is None


@pytest.mark.parametrize("presence", ["sleeping", "offline", "lost"])
@pytest.mark.parametrize("command", ["set_speed_limit", "set_report_interval"])
def test_settings_of_a_scooter_wait_while_it_is_away(command: str, presence: str) -> None:
    verdict = judge(request(command), knowing(presence=presence))
    assert verdict.status is CommandStatus.QUEUED
    assert verdict.detail == f"away: the scooter is {presence}"


@given(
    at=st.integers(NOW - 10**9, NOW + 10**6),
    ttl=st.none() | st.floats(0.001, 10**6, allow_nan=False),
    command=st.sampled_from(sorted(COMMANDS)),
)
def test_nothing_is_accepted_that_could_be_carried_out_late(
    at: int, ttl: float | None, command: str
) -> None:
    verdict = judge(request(command, at=at, ttl=ttl), ABOUT)
    if verdict.status is not CommandStatus.REFUSED:
        most_ms = COMMANDS[command].ttl_s * 1000
        assert NOW + 1000 <= verdict.expires_ms <= min(NOW, at) + most_ms
        assert ttl is None or verdict.expires_ms <= at + ttl * 1000 + 1


@given(ms=st.integers(-(10**6), 10**9))
def test_an_uptime_is_never_estimated_ahead_of_the_truth(ms: int) -> None:
    uptime = WELL.uptime(AT + ms / 1000)
    truth = 60_000 + 1000 + max(0, ms)
    assert uptime is not None
    assert truth - truth / 1000 - 1 <= uptime[1] <= truth
    slow_quartz = 60_000 + (1000 + max(0, ms)) * 0.9999
    assert uptime[1] <= slow_quartz + 1e-3
