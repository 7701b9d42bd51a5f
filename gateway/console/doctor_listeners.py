"""The doctor at each listener: is anybody let in who does not prove who it is?"""

import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.console.doctor_access import ADMIN
from gateway.console.doctor_report import Report
from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress, broker_address
from gateway.links.probe import LoginRefused, Probe, open_probe
from gateway.settings import Settings

SOON: Final = timedelta(days=30)
"""How long before its end a certificate is worth a finding."""


@dataclass(frozen=True, slots=True)
class _Listener:
    """Where it is, without a login; `binds`: the user name is forced as client id there."""

    name: str
    address: BrokerAddress
    binds: bool


async def examine_listeners(settings: Settings) -> Report:
    """Raises SettingsError for wrong certificate files; whatever else is wrong is a finding."""
    report = Report("listeners", settings.mqtt_public_host or settings.mqtt_host)
    own = broker_address(settings)
    for listener in _listeners(settings, own, report):
        try:
            await _examine(listener, report)
            if listener.binds:
                await _examine_binding(listener, own, settings, report)
        except ServerAway as error:
            _judge_away(listener, error, report)
    return report


def _listeners(settings: Settings, own: BrokerAddress, report: Report) -> list[_Listener]:
    listeners = []
    if settings.mqtt_certificate_file is None:  # else the certificate is the login
        nobody = replace(own, username=None, password=None)
        listeners.append(_Listener("gateway", nobody, binds=False))
    if settings.mqtt_public_host is None and settings.mqtt_authority_file is None:
        report.notes.append(
            "SCOOTER_MQTT_PUBLIC_HOST is not set: the listeners for scooters and operators were "
            "not examined"
        )
        return listeners
    try:
        tls = ssl.create_default_context(cafile=settings.mqtt_authority_file)
    except OSError as error:
        report.findings.append(f"SCOOTER_MQTT_AUTHORITY_FILE cannot be read ({error}): restore it")
        return listeners
    host = settings.mqtt_public_host or settings.mqtt_host
    ports = {"scooters": settings.mqtt_scooters_port, "operators": settings.mqtt_operators_port}
    return listeners + [
        _Listener(name, BrokerAddress(host=host, port=port, tls=tls), binds=True)
        for name, port in ports.items()
    ]


async def _examine(listener: _Listener, report: Report) -> None:
    """Nobody, and somebody with a wrong secret; both must be refused."""
    strangers = {
        "whoever names nobody": listener.address,
        "the user gateway with a wrong secret": replace(
            listener.address, username="gateway", password=secrets.token_urlsafe(32)
        ),
        "a user that does not exist": replace(
            listener.address,
            username=f"doctor-{secrets.token_hex(6)}",
            password=secrets.token_urlsafe(32),
        ),
    }
    for who, address in strangers.items():
        try:
            async with _joined(address) as probe:
                probe.leave()
        except LoginRefused:
            continue
        report.findings.append(
            f"the listener for {listener.name} on port {address.port} lets in {who}: set "
            "`allow_anonymous false` and `password_file` in mosquitto.conf, as "
            "broker/mosquitto.conf does, and restart the broker"
        )
    report.facts[listener.name] = f"examined on port {listener.address.port}"
    await _judge_certificate(listener, report)


async def _judge_certificate(listener: _Listener, report: Report) -> None:
    async with open_probe(listener.address) as probe:
        ends_at = probe.certificate_ends_at
    if ends_at is None:
        return
    report.facts[f"{listener.name}_certificate_ends"] = ends_at.date().isoformat()
    if ends_at - datetime.now(UTC) < SOON:
        report.findings.append(
            f"the certificate of the listener for {listener.name} ends on "
            f"{ends_at.date().isoformat()}, and nobody connects after it: renew it and reload the "
            "broker"
        )


async def _examine_binding(
    listener: _Listener, own: BrokerAddress, settings: Settings, report: Report
) -> None:
    """Hold a client id elsewhere: a login that borrows it here must not take it over."""
    if settings.mqtt_admin_password is None:
        return
    password = settings.mqtt_admin_password.get_secret_value()
    here = replace(own, username=ADMIN, password=password)
    there = replace(listener.address, username=ADMIN, password=password)
    client_id = f"doctor-{secrets.token_hex(6)}"
    async with _joined(here, client_id) as holder:
        async with _joined(there, client_id) as borrower:
            borrower.leave()
        try:
            await holder.subscribe("doctor")
        except ServerAway:
            report.findings.append(
                f"the listener for {listener.name} leaves the client id free, so that anybody can "
                "evict the gateway: set `use_username_as_clientid true` for it, and restart the "
                "broker"
            )


def _judge_away(listener: _Listener, error: ServerAway, report: Report) -> None:
    where = f"the listener for {listener.name} on port {listener.address.port}"
    if isinstance(error, LoginRefused):  # of `admin`: told where the access list is examined
        report.notes.append(f"{where} was not examined to the end: {error.detail}")
    elif isinstance(error.__cause__, ssl.SSLError):
        report.findings.append(
            f"{where} has a certificate that is not accepted ({error.detail}): scooters refuse it "
            "as well; renew it, or mend SCOOTER_MQTT_PUBLIC_HOST and SCOOTER_MQTT_AUTHORITY_FILE"
        )
    else:
        report.notes.append(f"{where} cannot be reached from here ({error.detail}): not examined")


@asynccontextmanager
async def _joined(address: BrokerAddress, client_id: str | None = None) -> AsyncIterator[Probe]:
    name = client_id or f"doctor-{secrets.token_hex(6)}"
    async with open_probe(address) as probe:
        await probe.connect(address, name, clean_start=True, session_expiry_s=0)
        yield probe
