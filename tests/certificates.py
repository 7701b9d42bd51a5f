"""Certificates for one test session, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from broker.config import Tls


@dataclass(frozen=True, slots=True)
class Certificate:
    certificate: Path
    key: Path


class Authority:
    """A certificate authority of the tests' own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = self._paths("authority")
        self.ca = self._own.certificate
        _openssl(
            *("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", "/CN=test authority", "-days", "2"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self._own.key, "-out", self.ca),
        )

    def issue(self, name: str) -> Certificate:
        """A certificate with this CN, for a server on 127.0.0.1 or a client."""
        issued = self._paths(name)
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl(
            *("req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", f"/CN={name}", "-keyout", issued.key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", extensions),
            *("-CA", self.ca, "-CAkey", self._own.key, "-CAcreateserial"),
            *("-out", issued.certificate),
        )
        return issued

    def listener(self, *, require_certificate: bool = False) -> Tls:
        """What a broker needs for a listener that this authority vouches for."""
        server = self.issue("broker")
        return Tls(self.ca, server.certificate, server.key, require_certificate=require_certificate)

    def _paths(self, name: str) -> Certificate:
        return Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)  # noqa: S603, S607
