"""What a simulated fleet is like, and what it has done so far."""

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from devices.bundle import Bundle


@dataclass(frozen=True, slots=True)
class CommandMishaps:
    """What share of the commands ends oddly, and how.

    `late` answers come `late_s` after their time; `wrong` is another status before the true ones;
    `never` obeys and says nothing; `foreign` answers for another scooter's command; `reboot` loses
    power before it obeys or before it answers; `jam` is a bolt that gets stuck. A frozen
    connection stays open, but for `freeze_s` nothing is read or sent, and then everything is; such
    ones come as often as coverage losses do, per simulated hour. Seconds are real.
    """

    late: float = 0.0
    twice: float = 0.0
    wrong: float = 0.0
    never: float = 0.0
    foreign: float = 0.0
    reboot: float = 0.0
    jam: float = 0.0
    late_s: float = 30.0
    freezes_per_h: float = 0.0
    freeze_s: float = 25.0

    @classmethod
    def some(cls) -> "CommandMishaps":
        """Each of them now and then: three commands of ten, and a freeze every twenty minutes."""
        return cls(
            late=0.05,
            twice=0.05,
            wrong=0.04,
            never=0.05,
            foreign=0.04,
            reboot=0.04,
            jam=0.03,
            freezes_per_h=3.0,
        )


@dataclass(frozen=True, slots=True)
class Mishaps:
    """How often things go wrong, per scooter and simulated hour, and what share is odd."""

    coverage_losses_per_h: float = 6.0
    reboots_per_h: float = 1.5
    falls_per_h: float = 1.5
    sleeps_per_h: float = 4.0
    clockless_share: float = 0.15
    wrong_clock_share: float = 0.1
    commands: CommandMishaps = field(default_factory=CommandMishaps)

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
    """A fleet of `size` scooters, the same for the same `seed`; or of these `ids`.

    Without `rides` a scooter moves only as it is told: it stays locked until it is commanded.
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
    rides: bool = True
    ids: tuple[str, ...] = ()

    def scooter_ids(self) -> list[str]:
        """The ids of the whole fleet: `ids`, or `SC-0001` and on."""
        if self.ids:
            return list(self.ids)
        return [f"{self.prefix}{number:04d}" for number in range(1, self.size + 1)]


@dataclass(frozen=True, slots=True)
class Credential:
    """How one scooter gets in. With a `command_key` it obeys nothing unsigned."""

    username: str
    password: str = field(repr=False)
    command_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the fleet connects.

    A scooter without a credential of its own takes the account that all share; without that it
    gives no name at all. `tls` is made once and shared by all.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    credentials: Mapping[str, Credential] = field(default_factory=dict, repr=False)

    @classmethod
    def of_bundles(cls, bundles: Iterable[Bundle]) -> "Broker":
        """The broker that these bundles name, each scooter with its own; ValueError without any.

        All of them are of one broker and one authority.
        """
        by_id = {bundle.username: bundle for bundle in bundles}
        if not by_id:
            raise ValueError("a fleet needs a bundle")
        one = next(iter(by_id.values()))
        return cls(
            host=one.host,
            port=one.port,
            tls=ssl.create_default_context(cadata=one.authority_pem),
            credentials={
                scooter_id: Credential(scooter_id, bundle.secret, bundle.command_key)
                for scooter_id, bundle in by_id.items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Obeyed:
    """One execution of a command: what tests hold against its ttl, and against a second one.

    `up_ms` is the scooter's uptime in `boot` and `at_ms` the real time, ms since epoch, at which
    it began; `exp_ms` is the uptime until which it might.
    """

    scooter_id: str
    request_id: str
    command: str
    n: int
    boot: int
    up_ms: int
    at_ms: int
    exp_ms: int | None


Witness = Callable[[Obeyed], None]
"""Told of every command in the moment in which a scooter begins to execute it."""


@dataclass(slots=True)
class Totals:
    """Counts of a whole fleet, readable while it runs.

    `sent` counts messages that the broker confirmed, whatever they were; `reports` those in
    live telemetry, `batched_reports` those in batches; `events_sent` events sent for the first
    time, `events_resent` each repetition, `events_receipted` those the gateway has. Each of the
    `commands` heard was obeyed, rejected, repeated (known: its answer again) or ignored; `acks`
    counts the answers that the broker confirmed.
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
    freezes: int = 0
    commands: int = 0
    commands_obeyed: int = 0
    commands_rejected: int = 0
    commands_repeated: int = 0
    commands_ignored: int = 0
    acks: int = 0
