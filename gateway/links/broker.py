"""Where the broker is and how to prove who we are: the same for uplink and downlink."""

import ssl
from dataclasses import dataclass, field

from gateway.errors import SettingsError
from gateway.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    """One listener of the broker; `tls` None means plain TCP.

    `server_name` is the name that its certificate must have, when that is not `host`.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive_s: int = 15
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str | None = None


def broker_address(settings: Settings) -> BrokerAddress:
    """The broker that `settings` name; reads the certificate files.

    Raises SettingsError when a file cannot be read or the certificate does not fit its key.
    """
    password = settings.mqtt_password
    return BrokerAddress(
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        username=settings.mqtt_username,
        password=password.get_secret_value() if password else None,
        keepalive_s=settings.mqtt_keepalive_s,
        tls=_tls_context(settings),
    )


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS is spoken exactly when an authority is named: a broker of ours has its own."""
    if settings.mqtt_ca_file is None:
        if settings.mqtt_certificate_file is not None:
            raise SettingsError(["SCOOTER_MQTT_CERTIFICATE_FILE: needs SCOOTER_MQTT_CA_FILE too"])
        return None
    try:
        context = ssl.create_default_context(cafile=settings.mqtt_ca_file)
    except OSError as error:
        raise SettingsError([f"SCOOTER_MQTT_CA_FILE: {error}"]) from error
    if settings.mqtt_certificate_file is not None:
        try:
            context.load_cert_chain(settings.mqtt_certificate_file, settings.mqtt_key_file)
        except OSError as error:
            raise SettingsError([f"SCOOTER_MQTT_CERTIFICATE_FILE: {error}"]) from error
    return context
