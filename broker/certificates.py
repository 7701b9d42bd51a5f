"""The fleet's own certificate authority, and the broker's certificate that it vouches for."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import FleetError
from broker.files import locked, replace, write_beside

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_AUTHORITY_YEARS: Final = 20  # it is in every scooter's bundle, and outlives the scooters
_SERVER_DAYS: Final = 397  # what strict clients accept of a server at most
_RENEW_DAYS: Final = 60
_CLOCKS_APART: Final = timedelta(days=1)  # a clock that is behind must not see the future

_Key = ec.EllipticCurvePrivateKey


class CertificateTrouble(FleetError):
    """The authority's files do not fit together; says which and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The files of one folder; `ca` is what clients are handed, both keys stay here."""

    ca: Path
    ca_key: Path
    certificate: Path
    key: Path


def ensure_authority(folder: Path, *, names: Sequence[str] = ()) -> Authority:
    """`ca.crt`, `ca.key`, `server.crt` and `server.key` in `folder`, made where they are missing.

    The server's certificate holds for this machine and for `names` (host names and addresses); it
    is renewed, with the same key, when these change or sixty days before its end: reload the
    broker then. Doing it again changes nothing; two at once take turns.
    Raises CertificateTrouble, and OSError when the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Authority(*(folder / name for name in ("ca.crt", "ca.key", "server.crt", "server.key")))
    wanted = tuple(dict.fromkeys([*LOCAL_NAMES, *names]))
    with locked(folder):
        if not files.ca.exists():
            _make_authority(files)
        ca = _load_certificate(files.ca)
        if not _serves(files, ca, wanted):
            _make_server(files, wanted)
    return files


def issue(authority: Authority, *, common_name: str, key: _Key, names: Sequence[str]) -> str:
    """A certificate (PEM) for this key: of a server under `names`, or of a client without any.

    Raises CertificateTrouble when the authority's key is not here or its time is up.
    """
    ca, ca_key = _load_certificate(authority.ca), _load_key(authority.ca_key)
    if ca_key.public_key() != ca.public_key():
        raise CertificateTrouble(
            f"{authority.ca_key} is not the key of {authority.ca}: restore it."
        )
    end = min(datetime.now(UTC) + timedelta(days=_SERVER_DAYS), ca.not_valid_after_utc)
    if end <= datetime.now(UTC):
        raise CertificateTrouble(
            f"The authority {authority.ca} has expired: remove its folder, start again, and hand "
            "the new ca.crt to every scooter."
        )
    usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _unsigned(_name(common_name), key, end=end)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if names:
        alternatives = x509.SubjectAlternativeName(list(map(_alternative, names)))
        builder = builder.add_extension(alternatives, critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256()))


def private_key(path: Path) -> _Key:
    """The EC key (P-256) in this file; made first, with mode 0600, when it is not there."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        replace(write_beside(path, text, like=path), path)
    return _load_key(path)


def _make_authority(files: Authority) -> None:
    # The key first: one without a certificate was never used, and is simply used now.
    key = private_key(files.ca_key)
    end = datetime.now(UTC) + timedelta(days=365 * _AUTHORITY_YEARS)
    name = _name("Scooter fleet authority")
    certificate = (
        _unsigned(name, key, end=end)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    _publish(files.ca, _pem(certificate))


def _make_server(files: Authority, names: Sequence[str]) -> None:
    key = private_key(files.key)
    _publish(files.certificate, issue(files, common_name="broker", key=key, names=names))


def _serves(files: Authority, ca: x509.Certificate, names: Sequence[str]) -> bool:
    """Whether the server's certificate is this authority's, fits its key and names, and lasts."""
    if not (files.certificate.exists() and files.key.exists()):
        return False
    certificate = _load_certificate(files.certificate)
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    told = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=_RENEW_DAYS)
    fits = certificate.public_key() == _load_key(files.key).public_key()
    return lasts and fits and list(told) == list(map(_alternative, names))


def _unsigned(name: x509.Name, key: _Key, *, end: datetime) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _CLOCKS_APART)
        .not_valid_after(end)
        .add_extension(identifier, critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Of a server or client, which signs handshakes; else of an authority."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=not signs,
        crl_sign=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _publish(path: Path, text: str) -> None:
    """A certificate is no secret: whoever may enter the folder may read it."""
    new = write_beside(path, text, like=path)
    new.chmod(0o644)
    replace(new, path)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise CertificateTrouble(f"{path} is not a certificate: restore or remove it.") from None


def _load_key(path: Path) -> _Key:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise CertificateTrouble(
            f"{path} is not here, so no certificate can be issued: restore it."
        ) from None
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, _Key):
        raise CertificateTrouble(f"{path} is not a key of ours: restore or remove it.")
    return key
