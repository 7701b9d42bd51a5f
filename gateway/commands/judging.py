"""Whether a request is carried out: rights, time and what is known of the scooter; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from devices.contract.commands import (
    CANCEL,
    CommandError,
    CommandStatus,
    Refusal,
    Request,
    Rule,
    check_params,
    rule_of,
)
from devices.standing import Standing
from gateway.commands.facts import Facts

AHEAD_MAX_MS: Final = 30_000
"""How far an operator's clock may be ahead of ours."""

LEFT_MIN_MS: Final = 1000
"""A command is not sent in the last second of its time: the broker's expiry counts whole ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be set; see the settings."""

    unlock_without_uptime: bool = False
    battery_floor_percent: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a request is judged by; `now_ms` is the ledger's clock, `at` this process's."""

    now_ms: int
    at: float
    standing: Standing | None
    has_right: bool
    facts: Facts
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to record: refused, queued or sent; a cancel that may be tried is sent."""

    status: CommandStatus
    detail: str | None
    params: Mapping[str, Any]
    actuator: str
    ttl_s: float
    expires_ms: int


def judge(request: Request, about: Circumstances) -> Verdict:
    """Accept a request or say why not."""
    rule: Rule | None = None
    params: Mapping[str, Any] = {}
    try:
        rule = CANCEL_RULE if request.command == CANCEL else rule_of(request.command)
        params = check_params(request.command, request.params)
        scooter_id, standing = request.scooter_id, about.standing
        check_rights(
            request.command, rule, scooter_id, standing=standing, has_right=about.has_right
        )
        ttl_s = _ttl_s(request, rule)
        expires_ms = min(request.at, about.now_ms) + round(ttl_s * 1000)
        _check_time(request, about, expires_ms)
        _check_conditions(request, rule, about)
    except CommandError as error:
        return Verdict(
            status=CommandStatus.REFUSED,
            detail=str(error),
            params=params,
            actuator=rule.actuator if rule else "",
            ttl_s=request.ttl or (rule.ttl_s if rule else 0),
            expires_ms=about.now_ms,
        )
    waits = rule.waits and about.facts.is_away
    return Verdict(
        status=CommandStatus.QUEUED if waits else CommandStatus.SENT,
        detail=f"{Refusal.AWAY}: the scooter is {about.facts.presence}" if waits else None,
        params=params,
        actuator=rule.actuator,
        ttl_s=ttl_s,
        expires_ms=expires_ms,
    )


CANCEL_RULE: Final = Rule(ttl_s=60, resends=0, actuator="", waits=True)


def check_rights(
    command: str, rule: Rule, scooter_id: str, *, standing: Standing | None, has_right: bool
) -> None:
    """Raises CommandError where the registry forbids it: when it is asked for, and at each send."""
    if standing is None:
        raise CommandError(Refusal.UNKNOWN_SCOOTER, f"nobody registered {scooter_id}")
    if standing is Standing.RETIRED:
        raise CommandError(Refusal.UNKNOWN_SCOOTER, f"{scooter_id} is retired")
    if not has_right:
        raise CommandError(Refusal.NO_RIGHT, f"this key may not {command} this scooter")
    # The broker keeps a suspended one out, so nothing reaches it or is worth waiting for. What
    # waits already may be cancelled.
    is_shut_out = standing is Standing.SUSPENDED and command != CANCEL
    if is_shut_out or (rule.guards and standing is not Standing.ACTIVE):
        raise CommandError(Refusal.NOT_ACTIVE, f"the scooter is {standing}")


def _ttl_s(request: Request, rule: Rule) -> float:
    if request.ttl is None:
        return float(rule.ttl_s)
    if request.ttl > rule.ttl_s:
        raise CommandError(
            Refusal.BAD_REQUEST, f"ttl: {request.command} counts for {rule.ttl_s} s at most"
        )
    return request.ttl


def _check_time(request: Request, about: Circumstances, expires_ms: int) -> None:
    if request.at > about.now_ms + AHEAD_MAX_MS:
        ahead_s = (request.at - about.now_ms) / 1000
        raise CommandError(
            Refusal.CLOCK_AHEAD, f"at is {ahead_s:.0f} s ahead of our clock, at most 30"
        )
    left_ms = expires_ms - about.now_ms
    if left_ms < LEFT_MIN_MS:
        raise CommandError(
            Refusal.EXPIRED, f"it came with {left_ms / 1000:.1f} s of its time left, at least 1"
        )


def _check_conditions(request: Request, rule: Rule, about: Circumstances) -> None:
    facts, policy = about.facts, about.policy
    if facts.is_away and not rule.waits:
        raise CommandError(Refusal.AWAY, f"the scooter is {facts.presence}")
    if rule.guards and facts.uptime(about.at) is None and not policy.unlock_without_uptime:
        untold = "the scooter did not tell its uptime" if facts.presence else "it was never heard"
        raise CommandError(Refusal.NO_UPTIME, f"{untold}, so it could obey too late")
    if request.force:
        return
    battery = facts.battery_percent
    if rule.guards and battery is not None and battery < policy.battery_floor_percent:
        raise CommandError(
            Refusal.LOW_BATTERY, f"{battery:.0f} % is below {policy.battery_floor_percent:.0f} %"
        )
    if rule.when_locked and facts.lock != "locked":
        raise CommandError(Refusal.NOT_LOCKED, f"the lock is {facts.lock or 'unknown'}")
