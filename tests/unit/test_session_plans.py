"""Which sessions an instance holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.errors import SettingsError
from gateway.links.lease import PRIMARY, instance_key
from gateway.links.plans import session_plans, telemetry_filters, tellable
from gateway.settings import Settings, read_settings

PLAIN = "scooters/+/telemetry"
EARLIER = "$share/gateway/scooters/+/telemetry"
passwords = st.text(min_size=1, max_size=80)


def settings(password: str | None, *, shared: bool = True, instance: str = "g1") -> Settings:
    secret = None if password is None else SecretStr(password)
    return Settings(_env_file=None, mqtt_password=secret, mqtt_shared=shared, instance=instance)


def test_telemetry_belongs_to_the_instance_the_rest_to_the_fleet() -> None:
    plans = session_plans(Settings(_env_file=None, instance="g1"))

    assert plans.telemetry.client_id == "g1/telemetry"
    assert plans.telemetry.filters == (PLAIN,)
    assert plans.events.client_id == "gateway/events"
    assert plans.events.filters == ("scooters/+/events", "scooters/+/telemetry_batch")
    assert plans.control.client_id == "gateway/control"
    assert plans.control.filters == ("scooters/+/acks", "scooters/+/status")


def test_shared_telemetry_is_one_group_for_all_instances() -> None:
    plans = [session_plans(settings("secret", instance=name)) for name in ("one", "two")]

    first, second = (each.telemetry.filters for each in plans)
    assert first == second == ("$share/gateway-c501505e1988e695/scooters/+/telemetry",)
    assert plans[0].events.filters[0] == "scooters/+/events"


@given(first=passwords, second=passwords)
def test_only_who_knows_the_password_knows_the_group(first: str, second: str) -> None:
    groups = [telemetry_filters(settings(each))[0] for each in (first, second)]

    assert (groups[0] == groups[1]) == (first == second)
    assert EARLIER not in groups


@given(passwords)
def test_a_session_leaves_whatever_it_is_not_to_have(password: str) -> None:
    shared = session_plans(settings(password)).telemetry
    alone = session_plans(settings(password, shared=False)).telemetry

    assert {*shared.unwanted} == {PLAIN, EARLIER}
    assert {*alone.unwanted} == {*shared.filters, EARLIER}


@pytest.mark.parametrize("password", [None, ""])
def test_a_group_that_anybody_could_name_is_not_joined(password: str | None) -> None:
    with pytest.raises(SettingsError, match="SCOOTER_MQTT_SHARED: needs SCOOTER_MQTT_PASSWORD"):
        session_plans(settings(password))

    assert session_plans(settings(password, shared=False)).telemetry.unwanted == (EARLIER,)


@given(passwords)
def test_the_group_is_not_told(password: str) -> None:
    plan = session_plans(settings(password)).telemetry

    assert "gateway-" not in repr(plan)
    assert tellable(plan.filters[0]) == "$share/…/scooters/+/telemetry"
    assert tellable(PLAIN) == PLAIN


def test_no_instance_has_the_name_whose_lease_makes_one_the_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCOOTER_INSTANCE", "primary")

    with pytest.raises(SettingsError, match=r"SCOOTER_INSTANCE: .*take another name"):
        read_settings()
    assert instance_key("primary") == PRIMARY
