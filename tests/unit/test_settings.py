"""Settings that would do harm are told by their name, and how to set them right."""

import pytest

from devices.contract.mac import FLEET_SECRET_MIN
from gateway.errors import SettingsError
from gateway.settings import read_settings


@pytest.mark.parametrize("secret", ["", "x", "x" * (FLEET_SECRET_MIN - 1)])
def test_a_fleet_secret_that_is_empty_or_short_is_told(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("SCOOTER_FLEET_SECRET", secret)

    with pytest.raises(
        SettingsError, match=r"SCOOTER_FLEET_SECRET: .*32 random characters.*openssl rand -hex 32"
    ) as caught:
        read_settings()
    assert not secret or f"'{secret}'" not in str(caught.value)


def test_a_fleet_secret_that_is_long_enough_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOOTER_FLEET_SECRET", "x" * FLEET_SECRET_MIN)
    settings = read_settings()

    assert settings.fleet_secret is not None
    assert settings.fleet_secret.get_secret_value() == "x" * FLEET_SECRET_MIN


def test_without_a_fleet_secret_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCOOTER_FLEET_SECRET", raising=False)

    assert read_settings().fleet_secret is None
