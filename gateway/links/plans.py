"""Which broker sessions an instance holds, and for what."""

import hmac
from dataclasses import dataclass, field, replace
from typing import Final

from devices.contract.topics import EVERY_REQUEST, Uplink, every
from gateway.errors import SettingsError
from gateway.settings import Settings

TELEMETRY_REST_S: Final = 0.005

EARLIER_GROUP: Final = "gateway"
"""How the group was called when everybody could know it."""

_DERIVED_FOR: Final = b"scooter gateway: group of the shared subscription"


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What one session is for; the broker keeps it for `session_expiry_s` while we are away.

    `rest_s` is how long a session waits between two reads, so that deliveries come together: a
    read and a batch cost the same whatever their size. `unwanted` are filters that another
    setting or an earlier release may have left in it: with both of two every message would come
    twice.
    """

    name: str
    client_id: str
    filters: tuple[str, ...] = field(repr=False)
    held_max: int
    session_expiry_s: int
    instance: str
    echo_period_s: float = 10.0
    rest_s: float = 0.0
    unwanted: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionPlans:
    """The three sessions, so that none waits behind another.

    Telemetry belongs to its instance; events and control to whichever instance is primary.
    """

    telemetry: SessionPlan
    events: SessionPlan
    control: SessionPlan


def telemetry_filters(settings: Settings) -> tuple[str, ...]:
    """Every filter that a telemetry session may have; the first is the one that it is to have.

    Raises SettingsError when it is to be a shared one and nothing is known to name its group by.
    """
    plain = every(Uplink.TELEMETRY)
    earlier = f"$share/{EARLIER_GROUP}/{plain}"
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else ""
    if not password:
        if settings.mqtt_shared:
            raise SettingsError(
                ["SCOOTER_MQTT_SHARED: needs SCOOTER_MQTT_PASSWORD, which names the group"]
            )
        return plain, earlier
    shared = f"$share/{_group(password)}/{plain}"
    return (shared, plain, earlier) if settings.mqtt_shared else (plain, shared, earlier)


def _group(password: str) -> str:
    """All gateways agree on it and nobody else can guess it.

    Mosquitto lets any login join a group that it can name, and gives it a share of the messages
    although it may not read them: they are lost.
    """
    return f"gateway-{hmac.digest(password.encode(), _DERIVED_FOR, 'sha256').hex()[:16]}"


def tellable(pattern: str) -> str:
    """A filter as logs and errors may show it: without the name of a group."""
    match pattern.split("/", 2):
        case ["$share", _, shared]:
            return f"$share/…/{shared}"
    return pattern


def session_plans(settings: Settings) -> SessionPlans:
    """The sessions of this instance; raises SettingsError as `telemetry_filters` does."""

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

    wanted, *unwanted = telemetry_filters(settings)
    # Without a ledger nobody's requests are taken.
    requests = (EVERY_REQUEST,) if settings.postgres_url is not None else ()
    return SessionPlans(
        telemetry=replace(
            plan("telemetry", f"{settings.instance}/telemetry", wanted),
            rest_s=TELEMETRY_REST_S,
            unwanted=tuple(unwanted),
        ),
        events=plan(
            "events", "gateway/events", every(Uplink.EVENTS), every(Uplink.TELEMETRY_BATCH)
        ),
        control=plan(
            "control", "gateway/control", every(Uplink.ACKS), every(Uplink.STATUS), *requests
        ),
    )
