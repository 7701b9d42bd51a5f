"""Certificates for one test session, from an authority of its own."""

from dataclasses import dataclass
from pathlib import Path

from broker.certificates import ensure_authority, issue, private_key
from broker.config import Tls


@dataclass(frozen=True, slots=True)
class Certificate:
    certificate: Path
    key: Path


class Authority:
    """A certificate authority of the tests' own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = ensure_authority(folder)
        self.ca = self._files.ca

    def issue(self, name: str) -> Certificate:
        """A client's certificate with this CN."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        text = issue(self._files, common_name=name, key=private_key(key), names=())
        certificate.write_text(text)
        return Certificate(certificate, key)

    def listener(self, *, require_certificate: bool = False) -> Tls:
        """What a broker on 127.0.0.1 needs for a listener that this authority vouches for."""
        files = self._files
        return Tls(files.ca, files.certificate, files.key, require_certificate=require_certificate)
