"""What a publish of a command carries: issue number, deadline in the scooter's uptime, `mac`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from devices.contract import mac, topics
from devices.contract.commands import UPTIME_MAX_MS, Command, Rule, build_command
from gateway.commands.facts import Facts
from gateway.commands.ledger_rows import Sending

PAUSE_MAX_S: Final = 15.0
"""A command that nobody answered is sent again after this at the latest, while it has resends."""

RETRY_S: Final = 5.0
"""Between two tries of a lock that the scooter rejects because it moves."""


class Generations(Protocol):
    """Which credential of a scooter counts: its command key is another with each."""

    def generation(self, scooter_id: str) -> int: ...


def pause_s(rule: Rule, *, sends: int) -> float | None:
    """Seconds from the send number `sends` to the next; None when it was the last."""
    if sends > rule.resends:
        return None
    return min(rule.ttl_s / (rule.resends + 1), PAUSE_MAX_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Builds sends. Without a fleet secret commands are not signed."""

    generations: Generations
    fleet_secret: str | None = field(default=None, repr=False)

    def sending(
        self,
        rule: Rule,
        facts: Facts,
        *,
        n: int,
        sends: int,
        left_s: float,
        at: float,
        before: tuple[int | None, int | None] = (None, None),
    ) -> Sending:
        """The numbers of the send number `sends`, for a command with `left_s` to go.

        `before` are `boot` and `exp` of the last one. What opens a scooter gets no more of its
        uptime by a resend, whatever the clocks say that came between, as after a restart.
        """
        boot = exp = None
        if (uptime := facts.uptime(at)) is not None:
            boot, exp = uptime[0], uptime[1] + math.floor(left_s * 1000)
            if rule.guards and before[0] == boot and before[1] is not None:
                exp = min(exp, before[1])
            if exp >= UPTIME_MAX_MS:
                boot = exp = None
        return Sending(
            n=n,
            boot=boot,
            exp=exp,
            next_send_s=pause_s(rule, sends=sends),
            lock_order=facts.lock_order,
        )

    def payload(
        self,
        sending: Sending,
        *,
        request_id: str,
        scooter_id: str,
        command: str,
        params: Mapping[str, Any],
    ) -> bytes:
        """What the scooter gets."""
        unsigned = build_command(
            Command(
                request_id=request_id,
                command=command,
                params=params,
                n=sending.n,
                boot=sending.boot,
                exp=sending.exp,
            )
        )
        generation = self.generations.generation(scooter_id)
        if self.fleet_secret is None or generation == 0:
            return unsigned
        key = mac.command_key(self.fleet_secret, scooter_id, generation)
        return mac.sign(key, topics.commands(scooter_id), unsigned)
