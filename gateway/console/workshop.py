"""What `scooter devices` and `scooter operators` need, opened as the settings say."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import asyncpg

from broker.admission import Broker
from broker.mosquitto import MosquittoBroker, Reload, parse_reload
from devices.bundle import BundleFacts
from devices.console.workshop import Forgotten, Lookup
from gateway.console import sightings, stores
from gateway.errors import SettingsError
from gateway.links.broker import broker_address
from gateway.links.retained import clear_status
from gateway.settings import Settings, read_settings
from gateway.telemetry.forget import forget_row, forget_state

_CONNECTIONS: Final = 4
"""An import holds two locks, each bound to a connection, while it works."""

_NEEDED: Final = {
    "mqtt_admin_password": "with it a revoked scooter's live session is ended",
    "broker_password_file": "the broker admits only whom that file names",
    "broker_reload": "the broker must be told to read a new password file",
    "mqtt_public_host": "bundles tell it to scooters and operators",
    "mqtt_authority_file": "bundles hand it out, so that nobody talks to another broker",
}
"""Settings with no default, and what they are needed for."""


def open_workshop() -> "SettingsWorkshop":
    """Raises SettingsError."""
    return SettingsWorkshop(read_settings())


class SettingsWorkshop:
    """The servers and listeners that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def pool(self) -> AbstractAsyncContextManager[asyncpg.Pool]:
        return stores.postgres(self._settings, connections=_CONNECTIONS)

    def broker(self) -> Broker:
        """Raises SettingsError with a sentence for each setting that is missing."""
        settings = self._settings
        password, file = settings.mqtt_admin_password, settings.broker_password_file
        reload = settings.broker_reload
        if password is None or file is None or reload is None:
            raise _missing(settings, "mqtt_admin_password", "broker_password_file", "broker_reload")
        return MosquittoBroker(
            host=settings.mqtt_host,
            port=settings.mqtt_port,
            admin_password=password.get_secret_value(),
            password_file=file,
            reload=_reload(reload, file),
            tls=broker_address(settings).tls,
        )

    def facts(self) -> BundleFacts:
        """Raises SettingsError when nobody could connect with what a bundle would say."""
        settings = self._settings
        host, authority = settings.mqtt_public_host, settings.mqtt_authority_file
        if host is None or authority is None:
            raise _missing(settings, "mqtt_public_host", "mqtt_authority_file")
        secret = settings.fleet_secret
        return BundleFacts(
            host=host,
            scooters_port=settings.mqtt_scooters_port,
            operators_port=settings.mqtt_operators_port,
            authority_pem=_authority(authority),
            fleet_secret=None if secret is None else secret.get_secret_value(),
        )

    def lookup(self, pool: Any) -> AbstractAsyncContextManager[Lookup]:  # noqa: ANN401 - a pool
        return sightings.lookup(self._settings, pool)

    async def forget(self, scooter_id: str) -> Forgotten:
        """Redis first, so that nothing is written from it any more; then Postgres, the broker."""
        settings = self._settings
        async with stores.redis(settings) as redis, stores.postgres(settings) as pool:
            in_redis = await forget_state(redis, scooter_id)
            in_postgres = await forget_row(pool, redis, scooter_id)
        cleared = await clear_status(broker_address(settings), scooter_id)
        return Forgotten(in_redis, in_postgres, status_cleared=cleared)


def _reload(text: str, passwords: Path) -> Reload:
    try:
        return parse_reload(text, passwords)
    except ValueError as error:
        raise SettingsError([f"SCOOTER_BROKER_RELOAD: {error}"]) from None


def _authority(file: Path) -> str:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"SCOOTER_MQTT_AUTHORITY_FILE: {error}"]) from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise SettingsError([f"SCOOTER_MQTT_AUTHORITY_FILE: {file} is no certificate in PEM"])
    if "PRIVATE KEY-----" in text:
        problem = f"{file} holds a private key, which bundles would hand out: name one without"
        raise SettingsError([f"SCOOTER_MQTT_AUTHORITY_FILE: {problem}"])
    return text


def _missing(settings: Settings, *names: str) -> SettingsError:
    unset = [name for name in names if getattr(settings, name) is None]
    return SettingsError(
        [f"SCOOTER_{name.upper()}: is not set, and {_NEEDED[name]}" for name in unset]
    )
