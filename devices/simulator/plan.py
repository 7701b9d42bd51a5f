"""What a simulated fleet is like, and what it has done so far."""

import ssl
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mishaps:
    """How often things go wrong, per scooter and simulated hour, and what share is odd."""

    coverage_losses_per_h: float = 6.0
    reboots_per_h: float = 1.5
    falls_per_h: float = 1.5
    sleeps_per_h: float = 4.0
    clockless_share: float = 0.15
    wrong_clock_share: float = 0.1

    @classmethod
    def none(cls) -> "Mishaps":
        """A fleet to which nothing happens but riding and parking."""
        return cls(
            coverage_losses_per_h=0.0,
            reboots_per_h=0.0,
            falls_per_h=0.0,
            sleeps_per_h=0.0,
            clockless_share=0.0,
            wrong_clock_share=0.0,
        )


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet of `size` scooters, the same for the same `seed`.

    `pace` is how many simulated seconds pass in a real one. Reports come that much more often;
    their times and intervals stay true to the real clock. `small_share` of the scooters have a
    client that takes no payload above 200 bytes.
    """

    size: int = 50
    seed: int = 1
    prefix: str = "SC-"
    pace: float = 1.0
    small_share: float = 0.5
    mishaps: Mishaps = field(default_factory=Mishaps)

    def scooter_ids(self) -> list[str]:
        """The ids of the whole fleet: `SC-0001` and on."""
        return [f"{self.prefix}{number:04d}" for number in range(1, self.size + 1)]


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the fleet connects. Without `username` a scooter gives no name at all."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(slots=True)
class Totals:
    """Counts of a whole fleet, readable while it runs.

    `sent` counts messages that the broker confirmed, whatever they were; `reports` those in
    live telemetry, `batched_reports` those in batches; `events_sent` events sent for the first
    time, `events_resent` each repetition, `events_receipted` those the gateway has.
    """

    connected: int = 0
    connects: int = 0
    sent: int = 0
    reports: int = 0
    batches: int = 0
    batched_reports: int = 0
    reports_lost: int = 0
    events: int = 0
    events_sent: int = 0
    events_resent: int = 0
    events_receipted: int = 0
    coverage_losses: int = 0
    reboots: int = 0
    sleeps: int = 0
