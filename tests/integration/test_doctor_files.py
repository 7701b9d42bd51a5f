"""The doctor finds files that give secrets away, expire, or let in others than the registry."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.accounts import (
    Written,
    fixed_accounts_file,
    new_secret,
    secret_hash,
    write_fixed_accounts,
    write_passwords,
)
from broker.certificates import ensure_authority
from devices.registry import NewScooter, Registry
from gateway.console.doctor_files import examine_files
from gateway.console.doctor_report import Report
from gateway.settings import Settings


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    """A password file with the fixed accounts alone, as a new broker has it."""
    file = tmp_path / "passwords"
    accounts = {"gateway": new_secret(), "admin": new_secret()}
    write_fixed_accounts(fixed_accounts_file(file), accounts)
    write_passwords(file, {})
    return file


@pytest.fixture
async def registry(postgres_url: str) -> AsyncIterator[Registry]:
    async with asyncpg.create_pool(postgres_url, min_size=0) as pool:
        yield Registry(pool)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of settings, which is not there yet."""
    file = tmp_path / "gateway.env"
    monkeypatch.setenv("SCOOTER_ENV_FILE", str(file))
    return file


async def examine(passwords: Path | None, url: str | None = None, **others: object) -> Report:
    given: dict[str, object] = {"broker_password_file": passwords, "postgres_url": url}
    return await examine_files(Settings(_env_file=None, **(given | others)))  # type: ignore[arg-type]


def told(report: Report) -> str:
    return "\n".join(report.findings)


def cut_short(file: Path) -> None:
    file.write_text(file.read_text()[:-20])


def authority(file: Path, *, days: int) -> Path:
    """A certificate that ends in so many days."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    made = (
        builder.not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file


async def credential(registry: Registry, scooter_id: str) -> str:
    """The hash of a scooter that is known and gets in."""
    hashed = secret_hash(new_secret())
    await registry.add([NewScooter(scooter_id)], by="tests")
    await registry.set_credentials({scooter_id: hashed}, by="tests")
    return hashed


async def test_logins_as_in_the_registry_are_well(
    passwords: Path, registry: Registry, postgres_url: str
) -> None:
    write_passwords(passwords, {"SC-0001": await credential(registry, "SC-0001")})

    report = await examine(passwords, postgres_url)

    assert report.findings == []
    assert report.facts["logins"] == 1


async def test_missing_foreign_and_other_logins_are_found(
    passwords: Path, registry: Registry, postgres_url: str
) -> None:
    await credential(registry, "SC-0001")
    await credential(registry, "SC-0002")
    other = secret_hash(new_secret())
    write_passwords(passwords, {"SC-0002": other, "eve.laptop": other})

    found = told(await examine(passwords, postgres_url))

    assert "1 logins get in at the broker that the registry keeps out (eve.laptop)" in found
    assert "1 logins of the registry are kept out by the broker (SC-0001)" in found
    assert "another secret at the broker than in the registry (SC-0002)" in found
    assert found.count("scooter devices reconcile") == 3
    assert other not in found


async def test_a_file_that_the_broker_never_proved_to_have_loaded_is_found(
    passwords: Path, registry: Registry, postgres_url: str
) -> None:
    async def proved(written: Written) -> None:
        detail = {"sha256": written.sha256}
        await registry.audit("admit", "broker", kind="broker", by="tests", detail=detail)

    await proved(write_passwords(passwords, {}))
    well = await examine(passwords, postgres_url)
    again = write_passwords(passwords, {})
    unproved = await examine(passwords, postgres_url)
    await proved(again)

    assert well.findings == []
    assert "another one than the broker last proved to have loaded" in told(unproved)
    assert "scooter devices reconcile" in told(unproved)
    assert (await examine(passwords, postgres_url)).findings == []


async def test_a_file_that_is_cut_short_or_not_there_is_found(
    passwords: Path, postgres_url: str
) -> None:
    cut_short(passwords)
    cut = await examine(passwords, postgres_url)
    passwords.unlink()  # noqa: ASYNC240 - a test may block
    gone = await examine(passwords, postgres_url)

    assert "scooter devices reconcile" in told(cut)
    assert f"{passwords} does not exist" in told(gone)


async def test_files_that_others_may_read_are_found(passwords: Path, elsewhere: Path) -> None:
    elsewhere.write_text("SCOOTER_FLEET_SECRET=...\n")  # noqa: ASYNC240 - a test may block
    for file in (passwords, fixed_accounts_file(passwords), elsewhere):
        file.chmod(0o644)

    found = told(await examine(passwords))

    for file in (passwords, fixed_accounts_file(passwords), elsewhere):
        assert f"{file} has mode 0644" in found
        file.chmod(0o640)  # the group may be the broker's
    assert (await examine(passwords)).findings == []


@pytest.mark.parametrize(("days", "is_found"), [(-1, True), (29, True), (31, False)])
async def test_an_authority_that_ends_within_thirty_days_is_found(
    tmp_path: Path, days: int, *, is_found: bool
) -> None:
    file = authority(tmp_path / "ca.crt", days=days)

    found = told(await examine(None, mqtt_authority_file=file))

    assert ("no scooter trusts the broker any more" in found) is is_found


async def test_a_key_that_others_may_read_is_found(tmp_path: Path) -> None:
    files = ensure_authority(tmp_path)
    well = await examine(None, mqtt_authority_file=files.ca, mqtt_key_file=files.key)
    for file in (files.ca_key, files.key):
        file.chmod(0o644)
    open_to_others = await examine(None, mqtt_authority_file=files.ca, mqtt_key_file=files.key)

    assert well.findings == []
    assert f"{files.ca_key} has mode 0644" in told(open_to_others)
    assert f"{files.key} has mode 0644" in told(open_to_others)


async def test_an_authority_that_is_none_is_found(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    missing = await examine(None, mqtt_authority_file=file)
    file.write_text("nothing")
    wrong = await examine(None, mqtt_authority_file=file)

    assert "cannot be read" in told(missing)
    assert "is no certificate in PEM" in told(wrong)


async def test_what_is_not_here_is_no_finding() -> None:
    report = await examine(None)

    assert report.findings == []
    assert any("SCOOTER_FLEET_SECRET is not set" in note for note in report.notes)
