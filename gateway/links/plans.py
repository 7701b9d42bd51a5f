"""Which broker sessions an instance holds, and for what."""

from dataclasses import dataclass, replace
from typing import Final

from devices.contract.topics import EVERY_REQUEST, Uplink, every
from gateway.settings import Settings

TELEMETRY_LINGER_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What one session is for; the broker keeps it for `session_expiry_s` while we are away.

    `linger_s` is how long a session that was idle waits for company of its first delivery: a
    batch costs the same whatever its size. `unwanted` are filters that another setting may have
    left in it: with both the plain and the shared one every message would come twice.
    """

    name: str
    client_id: str
    filters: tuple[str, ...]
    held_max: int
    session_expiry_s: int
    instance: str
    echo_period_s: float = 10.0
    linger_s: float = 0.0
    unwanted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SessionPlans:
    """The three sessions, so that none waits behind another.

    Telemetry belongs to its instance; events and control to whichever instance is primary.
    """

    telemetry: SessionPlan
    events: SessionPlan
    control: SessionPlan


def session_plans(settings: Settings) -> SessionPlans:
    """The sessions of this instance."""

    # Each client id has a slash: no login has one, and a login is forced as client id elsewhere.
    def plan(name: str, client_id: str, *filters: str) -> SessionPlan:
        return SessionPlan(
            name=name,
            client_id=client_id,
            filters=filters,
            held_max=settings.held_max,
            session_expiry_s=settings.mqtt_session_expiry_s,
            instance=settings.instance,
            echo_period_s=settings.echo_period_s,
        )

    plain, shared = every(Uplink.TELEMETRY), f"$share/gateway/{every(Uplink.TELEMETRY)}"
    wanted, unwanted = (shared, plain) if settings.mqtt_shared else (plain, shared)
    # Without a ledger nobody's requests are taken.
    requests = (EVERY_REQUEST,) if settings.postgres_url is not None else ()
    return SessionPlans(
        telemetry=replace(
            plan("telemetry", f"{settings.instance}/telemetry", wanted),
            linger_s=TELEMETRY_LINGER_S,
            unwanted=(unwanted,),
        ),
        events=plan(
            "events", "gateway/events", every(Uplink.EVENTS), every(Uplink.TELEMETRY_BATCH)
        ),
        control=plan(
            "control", "gateway/control", every(Uplink.ACKS), every(Uplink.STATUS), *requests
        ),
    )
