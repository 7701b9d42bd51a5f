"""The doctor at the files: the broker's logins, the authority's certificate, kept secrets."""

import hashlib
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from broker.accounts import fixed_accounts_file, read_logins
from broker.admission import NotAdmitted
from devices.console.exits import CommandFailed
from devices.registry import Registry
from gateway.console import stores
from gateway.console.doctor_listeners import SOON
from gateway.console.doctor_report import Report
from gateway.errors import ServerAway
from gateway.settings import Settings, env_file

_FOR_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_NAMED: Final = 5
"""Logins that a finding names; the rest is a number."""


async def examine_files(settings: Settings) -> Report:
    """What is wrong is a finding; files that the settings do not name are none of ours."""
    file = settings.broker_password_file
    report = Report("files", str(file or "SCOOTER_BROKER_PASSWORD_FILE is not set"))
    _examine_secrets(settings, report)
    if settings.mqtt_authority_file is not None:
        _examine_authority(settings.mqtt_authority_file, report)
    if file is None:
        report.notes.append("the broker's password file is written elsewhere: not examined")
        return report
    try:
        _examine_mode(fixed_accounts_file(file), report)
        if _examine_mode(file, report):
            await _compare_logins(file, settings, report)
    except OSError as error:
        report.findings.append(f"{file} cannot be read ({error.strerror}): run this as its owner")
    except NotAdmitted as error:
        report.findings.append(f"{error} Then run `scooter devices reconcile`.")
    except (ServerAway, CommandFailed):
        report.unexamined.append(
            "Postgres does not tell the registry: its logins were not compared"
        )
    return report


def _examine_secrets(settings: Settings, report: Report) -> None:
    """Where secrets are kept; the fleet's own is in the file of settings, if anywhere here."""
    kept = [env_file(), settings.mqtt_key_file]
    if settings.mqtt_authority_file is not None:
        kept.append(settings.mqtt_authority_file.with_name("ca.key"))
    report.facts["fleet_secret"] = "not set" if settings.fleet_secret is None else "set"
    report.findings += [
        problem
        for file in kept
        if file is not None and file.is_file() and (problem := _open_to_others(file))
    ]
    if settings.fleet_secret is None:
        report.notes.append(
            "SCOOTER_FLEET_SECRET is not set: commands are not signed, and a scooter has to trust "
            "the broker"
        )


def _examine_authority(file: Path, report: Report) -> None:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        report.findings.append(f"{file} cannot be read ({error.strerror}): restore it")
        return
    except ValueError:
        report.findings.append(f"{file} is no certificate in PEM: restore it")
        return
    ends_at = min(each.not_valid_after_utc for each in certificates)
    report.facts["authority_ends"] = ends_at.date().isoformat()
    if ends_at - datetime.now(UTC) < SOON:
        report.findings.append(
            f"the authority {file} ends on {ends_at.date().isoformat()}, and then no scooter "
            "trusts the broker any more: make a new one, and hand it to every scooter before"
        )


def _examine_mode(file: Path, report: Report) -> bool:
    """Returns whether it is there."""
    if not file.exists():
        report.findings.append(
            f"{file} does not exist, and without it nobody gets in: see that SCOOTER_BROKER_"
            "PASSWORD_FILE names the broker's, and run `scooter devices reconcile`"
        )
        return False
    if problem := _open_to_others(file):
        report.findings.append(problem)
    return True


def _open_to_others(file: Path) -> str | None:
    mode = stat.S_IMODE(file.stat().st_mode)
    if not mode & _FOR_OTHERS:
        return None
    return f"{file} has mode {mode:04o}, so everybody on the machine may read it: chmod o= {file}"


async def _compare_logins(file: Path, settings: Settings, report: Report) -> None:
    """Whether exactly those of the registry get in, and the broker has shown that they do."""
    found = read_logins(file)
    report.facts["logins"] = len(found)
    if settings.postgres_url is None:
        report.notes.append("Redis alone: there is no registry to compare the logins with")
        return
    async with stores.postgres(settings) as pool:
        registry = Registry(pool)
        known = await registry.logins()
        proved = await registry.audits("broker", kind="broker", at_most=1)
    if proved and proved[0].detail.get("sha256") != _sha256(file):
        report.findings.append(
            f"{file} is another one than the broker last proved to have loaded, so who was revoked "
            "may still get in: run `scooter devices reconcile`"
        )
    differing = _differing(found, known)
    report.findings += [
        f"{len(names)} logins {what} ({_some(names)}): run `scooter devices reconcile`"
        for what, names in differing.items()
        if names
    ]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _differing(found: Mapping[str, str], known: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        "get in at the broker that the registry keeps out": sorted({*found} - {*known}),
        "of the registry are kept out by the broker": sorted({*known} - {*found}),
        "have another secret at the broker than in the registry": sorted(
            name for name in {*known} & {*found} if known[name] != found[name]
        ),
    }


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])
