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

_OF_OURS: Final = (10, 62)
"""What OpenSSL says of a certificate whose authority it trusts: expired, another name."""


@dataclass(frozen=True, slots=True)
class _Listener:
    """Where it is, without a login; `binds`: the user name is forced as client id there.

    `others` are tried in turn when nothing is at the address: from here the public name may lead
    nowhere. They must show the same certificate.
    """

    name: str
    address: BrokerAddress
    binds: bool
    others: tuple[BrokerAddress, ...] = ()


async def examine_listeners(settings: Settings) -> Report:
    """Raises SettingsError for wrong certificate files; whatever else is wrong is a finding."""
    report = Report("listeners", settings.mqtt_public_host or settings.mqtt_host)
    own = broker_address(settings)
    for listener in _listeners(settings, own, report):
        try:
            reached = await _reach(listener)
            await _examine(reached, report)
            if reached.binds:
                await _examine_binding(reached, own, settings, report)
        except ServerAway as error:
            _judge_away(listener, error, report)
    return report


def _listeners(settings: Settings, own: BrokerAddress, report: Report) -> list[_Listener]:
    listeners = []
    if settings.mqtt_certificate_file is None:  # else the certificate is the login
        nobody = replace(own, username=None, password=None)
        listeners.append(_Listener("gateway", nobody, binds=False))
    if settings.mqtt_public_host is None and settings.mqtt_authority_file is None:
        report.unexamined.append(
            "SCOOTER_MQTT_PUBLIC_HOST is not set: the listeners for scooters and operators were "
            "not examined, nor when their certificate ends"
        )
        return listeners
    try:
        tls = ssl.create_default_context(cafile=settings.mqtt_authority_file)
    except OSError as error:
        report.findings.append(f"SCOOTER_MQTT_AUTHORITY_FILE cannot be read ({error}): restore it")
        return listeners
    return [*listeners, *(_tls_listener(name, settings, tls) for name in ("scooters", "operators"))]


def _tls_listener(name: str, settings: Settings, tls: ssl.SSLContext) -> _Listener:
    """Where its clients find it, else where the gateway finds the broker: a container has another
    way to it, and the port that is published may be another one too.
    """
    setting = f"mqtt_{name}_port"
    public = BrokerAddress(
        host=settings.mqtt_public_host or settings.mqtt_host,
        port=getattr(settings, setting),
        tls=tls,
    )
    inside = replace(public, host=settings.mqtt_host, server_name=public.host)
    usual = replace(inside, port=Settings.model_fields[setting].default)
    others = [
        each for each in (inside, usual) if (each.host, each.port) != (public.host, public.port)
    ]
    return _Listener(name, public, binds=True, others=tuple(others))


async def _reach(listener: _Listener) -> _Listener:
    """The listener at the first address where something answers; raises ServerAway."""
    away: ServerAway | None = None
    for address in (listener.address, *listener.others):
        try:
            async with open_probe(address):
                return replace(listener, address=address)
        except ServerAway as error:
            if _is_of_ours(error, is_elsewhere=address.port != listener.address.port):
                raise
            away = away or error  # the first is what its clients would see
    raise away or AssertionError


def _is_of_ours(error: ServerAway, *, is_elsewhere: bool) -> bool:
    """Whether what failed is the TLS of this listener, and not of what has its usual port here."""
    cause = error.__cause__
    if not is_elsewhere:
        return isinstance(cause, ssl.SSLError)
    return isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _OF_OURS


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
    report.facts[listener.name] = f"examined on port {listener.address.port}{_way(listener)}"
    await _judge_certificate(listener, report)


def _way(listener: _Listener) -> str:
    name, host = listener.address.server_name, listener.address.host
    return f" of {host}, as {name}" if name is not None else ""


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
        report.unexamined.append(f"{where} was not examined to the end: {error.detail}")
    elif isinstance(error.__cause__, ssl.SSLError):
        report.findings.append(
            f"{where} has a certificate that is not accepted ({error.detail}): scooters refuse it "
            "as well; renew it, or mend SCOOTER_MQTT_PUBLIC_HOST and SCOOTER_MQTT_AUTHORITY_FILE"
        )
    else:
        certificate = ", nor when its certificate ends" if listener.binds else ""
        report.unexamined.append(
            f"{where} cannot be reached from here ({error.detail}): not examined{certificate}"
        )


@asynccontextmanager
async def _joined(address: BrokerAddress, client_id: str | None = None) -> AsyncIterator[Probe]:
    name = client_id or f"doctor-{secrets.token_hex(6)}"
    async with open_probe(address) as probe:
        await probe.connect(address, name, clean_start=True, session_expiry_s=0)
        yield probe
