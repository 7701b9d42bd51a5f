"""Which sessions an instance holds."""

from gateway.links.plans import session_plans
from gateway.settings import Settings


def test_telemetry_belongs_to_the_instance_the_rest_to_the_fleet() -> None:
    plans = session_plans(Settings(_env_file=None, instance="g1"))

    assert plans.telemetry.client_id == "g1/telemetry"
    assert plans.telemetry.filters == ("scooters/+/telemetry",)
    assert plans.events.client_id == "gateway/events"
    assert plans.events.filters == ("scooters/+/events", "scooters/+/telemetry_batch")
    assert plans.control.client_id == "gateway/control"
    assert plans.control.filters == ("scooters/+/acks", "scooters/+/status")


def test_shared_telemetry_is_one_group() -> None:
    plans = session_plans(Settings(_env_file=None, mqtt_shared=True))

    assert plans.telemetry.filters == ("$share/gateway/scooters/+/telemetry",)
    assert plans.events.filters[0] == "scooters/+/events"
