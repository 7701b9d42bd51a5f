"""The fleet's authority: made once, renewed in time, and safe to make twice at once."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker import certificates
from broker.certificates import Authority, CertificateTrouble, ensure_authority, issue, private_key


def contents(authority: Authority) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in authority.ca.parent.iterdir()}


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names_of(path: Path) -> list[str]:
    told = load(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in told]


def handshake(authority: Authority, *, host: str, ca: Path | None = None) -> ssl.SSLObject:
    """TLS in memory between a server with this certificate and a strict client."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(authority.certificate, authority.key)
    client_context = ssl.create_default_context(cafile=str(ca or authority.ca))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(down, up, server_hostname=host)
    server = server_context.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "broker.example", "192.0.2.1"])
def test_a_client_that_trusts_the_authority_trusts_the_broker(tmp_path: Path, host: str) -> None:
    authority = ensure_authority(tmp_path, names=["broker.example", "192.0.2.1"])

    assert handshake(authority, host=host).version() == "TLSv1.3"


def test_another_host_or_another_authority_is_not_trusted(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path / "a")
    other = ensure_authority(tmp_path / "b")

    with pytest.raises(ssl.SSLCertVerificationError, match=r"evil\.example"):
        handshake(authority, host="evil.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority, host="localhost", ca=other.ca)


def test_keys_are_private_and_certificates_are_not(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path / "new")
    modes = {file.name: file.stat().st_mode & 0o777 for file in authority.ca.parent.iterdir()}

    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600}
    assert authority.ca.parent.stat().st_mode & 0o777 == 0o700


def test_keys_are_on_the_curve_that_small_clients_know(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)

    for file in (authority.ca_key, authority.key):
        assert isinstance(private_key(file).curve, ec.SECP256R1)


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    before = contents(ensure_authority(tmp_path, names=["a.example"]))

    assert contents(ensure_authority(tmp_path, names=["a.example"])) == before


def test_other_names_make_another_certificate_with_the_same_key(tmp_path: Path) -> None:
    before = contents(ensure_authority(tmp_path, names=["a.example"]))
    authority = ensure_authority(tmp_path, names=["b.example"])
    after = contents(authority)

    assert {name for name in after if after[name] != before[name]} == {"server.crt"}
    assert names_of(authority.certificate) == ["localhost", "127.0.0.1", "::1", "b.example"]


def test_the_certificate_is_renewed_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_SERVER_DAYS", 59)
    before = contents(ensure_authority(tmp_path))
    monkeypatch.undo()
    authority = ensure_authority(tmp_path)
    after = contents(authority)

    assert {name for name in after if after[name] != before[name]} == {"server.crt"}
    left = load(authority.certificate).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=390) < left < timedelta(days=398)


def test_the_authority_outlives_scooters(tmp_path: Path) -> None:
    left = load(ensure_authority(tmp_path).ca).not_valid_after_utc - datetime.now(UTC)

    assert left > timedelta(days=19 * 365)


def test_an_authority_whose_time_is_up_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_AUTHORITY_YEARS", 0)

    with pytest.raises(CertificateTrouble, match="has expired: remove its folder"):
        ensure_authority(tmp_path)


@pytest.mark.parametrize("missing", ["server.crt", "server.key"])
def test_a_server_file_that_is_gone_is_made_again(tmp_path: Path, missing: str) -> None:
    (ensure_authority(tmp_path).ca.parent / missing).unlink()

    handshake(ensure_authority(tmp_path), host="localhost")


def test_a_key_that_was_made_before_its_writer_was_killed_is_used(tmp_path: Path) -> None:
    private_key(tmp_path / "ca.key")
    before = (tmp_path / "ca.key").read_bytes()
    authority = ensure_authority(tmp_path)

    assert authority.ca_key.read_bytes() == before
    handshake(authority, host="localhost")


def test_an_authoritys_key_may_be_kept_elsewhere_until_it_is_needed(tmp_path: Path) -> None:
    ensure_authority(tmp_path).ca_key.unlink()

    ensure_authority(tmp_path)
    with pytest.raises(CertificateTrouble, match=r"ca\.key is not here"):
        ensure_authority(tmp_path, names=["new.example"])


@pytest.mark.parametrize("damaged", ["ca.crt", "server.crt", "server.key"])
def test_a_damaged_file_is_named(tmp_path: Path, damaged: str) -> None:
    (ensure_authority(tmp_path).ca.parent / damaged).write_text("damaged")

    with pytest.raises(CertificateTrouble, match=damaged):
        ensure_authority(tmp_path)


def test_a_server_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    one, two = ensure_authority(tmp_path / "1"), ensure_authority(tmp_path / "2")
    one.certificate.write_bytes(two.certificate.read_bytes())

    handshake(ensure_authority(tmp_path / "1"), host="localhost")


def test_two_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: contents(ensure_authority(tmp_path)), range(8)))

    assert all(each == found[0] for each in found)


def test_a_client_is_no_server_and_neither_is_an_authority(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)
    key = private_key(tmp_path / "client.key")
    (tmp_path / "client.crt").write_text(issue(authority, common_name="SC-0001", key=key, names=()))
    as_server = Authority(
        authority.ca, authority.ca_key, tmp_path / "client.crt", tmp_path / "client.key"
    )
    constraints = load(as_server.certificate).extensions.get_extension_for_class(
        x509.BasicConstraints
    )

    assert not constraints.value.ca
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(as_server, host="localhost")
