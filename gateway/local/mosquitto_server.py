"""Our Mosquitto: the shipped files filled in, its accounts, and the proof that it serves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from broker.accounts import (
    fixed_accounts_file,
    read_logins,
    write_fixed_accounts,
    write_passwords,
    write_private,
)
from broker.certificates import ensure_authority
from broker.config import SHIPPED_ACL, Ports, Tls, fill_config, tls_listener
from gateway.local.data_folder import AUTHORITY
from gateway.local.mosquitto_package import Mosquitto
from gateway.local.server_process import Server, answer_of

GATEWAY: Final = "gateway"
ADMIN: Final = "admin"
PASSWORDS: Final = "passwords"
PID: Final = "mosquitto.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What tests add to the shipped files; `accounts` are secrets by name."""

    accounts: Mapping[str, str] = field(default_factory=dict, repr=False)
    acl: str = ""
    tls: Tls | None = None
    tls_port: int | None = None


def mosquitto_server(
    folder: Path, program: Mosquitto, *, secrets: Mapping[str, str], ports: Ports, more: More
) -> Server:
    """Mosquitto with the shipped files; `secrets` are those of `gateway` and `admin`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_accounts(folder, {**secrets, **more.accounts})
    write_private(folder / "acl", SHIPPED_ACL.read_text() + more.acl)
    authority = ensure_authority(folder.parent / AUTHORITY)
    text = fill_config(
        ports=ports,
        address="127.0.0.1",
        data=folder,
        passwords=folder / PASSWORDS,
        acl=folder / "acl",
        certificate=authority.certificate,
        key=authority.key,
    )
    if more.tls and more.tls_port:
        text += tls_listener(more.tls, port=more.tls_port)
    write_private(folder / "mosquitto.conf", text)
    return Server(
        "Mosquitto",
        [*program.command(), "-c", folder / "mosquitto.conf"],
        port=ports.internal,
        log_file=folder / "mosquitto.log",
        is_ready=lambda: mosquitto_serves("127.0.0.1", ports.internal, secrets[GATEWAY]),
    ).unprivileged()


def write_accounts(folder: Path, secrets: Mapping[str, str]) -> None:
    """The fixed accounts, and a password file that lets in those and who else got in before."""
    passwords = folder / PASSWORDS
    write_fixed_accounts(fixed_accounts_file(passwords), secrets)
    write_passwords(passwords, read_logins(passwords))


def mosquitto_serves(host: str, port: int, secret: str) -> bool:
    """Whether the gateway can log in (MQTT 3.1.1 CONNECT, section 3.1)."""
    fields = (b"", GATEWAY.encode(), secret.encode())  # client id, user name, password
    payload = b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + payload
    return answer_of(host, port, bytes([0x10, len(body)]) + body, size=4) == b"\x20\x02\x00\x00"
