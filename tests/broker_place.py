"""A broker of a test's own, with every shipped listener, and clients that log in as somebody."""

import os
import secrets
import shutil
import socket
import ssl
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from aiomqtt import Client, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.accounts import (
    fixed_accounts_file,
    new_secret,
    secret_hash,
    write_fixed_accounts,
    write_passwords,
    write_private,
)
from broker.administration import Listener, Login, connected
from broker.certificates import ensure_authority
from broker.config import SHIPPED_ACL, Ports, fill_config
from broker.mosquitto import MosquittoBroker, PidFileReload, Reload
from gateway.local.mosquitto_package import Mosquitto, find_mosquitto
from gateway.local.server_process import Server
from gateway.local.servers import free_port

# systemd needs a whole machine: this does what the unit's ExecReload does.
SYSTEMCTL = """#!/bin/sh
[ "$*" = "reload -- mosquitto" ] || { echo "Unit not found: $*" >&2; exit 5; }
kill -HUP "$(cat "$PID_FILE")"
"""
WATCH = Path(__file__).parents[1] / "broker" / "watch-passwords.sh"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with a secret, and the port of the listener where they log in."""

    name: str
    secret: str = field(repr=False)
    port: int


class BrokerPlace:
    """The shipped files filled in for one folder, and the broker that runs with them.

    `owner`: whom the files belong to when the broker is started as root and becomes that user.
    """

    def __init__(
        self,
        folder: Path,
        program: Mosquitto | None = None,
        *,
        watched: bool = False,
        acl: str = "",
        owner: str | None = None,
    ) -> None:
        self.folder = folder
        self.passwords = folder / "passwords"
        self.pid_file = folder / "mosquitto.pid"
        self.secrets = {"gateway": new_secret(), "admin": new_secret()}
        self.logins: dict[str, str] = {}
        self._program = program or find_mosquitto()
        self._watched = watched
        self._owner = owner
        folder.mkdir(parents=True)
        self.authority = ensure_authority(folder / "authority")
        write_private(folder / "acl", SHIPPED_ACL.read_text() + acl)
        write_fixed_accounts(fixed_accounts_file(self.passwords), self.secrets)
        write_passwords(self.passwords, {})
        self.move()

    def move(self) -> None:
        """To new ports, before the next start."""
        self.ports = Ports(free_port(), free_port(), free_port())
        text = fill_config(
            data=self.folder,
            passwords=self.passwords,
            acl=self.folder / "acl",
            certificate=self.authority.certificate,
            key=self.authority.key,
            ports=self.ports,
            address="127.0.0.1",
        )
        write_private(self.folder / "mosquitto.conf", text)
        command: list[str | Path] = [*self._program.command(), "-c", self.folder / "mosquitto.conf"]
        if self._watched:
            command = [WATCH, self.passwords, self.authority.certificate, "--", *command]
        self.server = Server(
            "Mosquitto",
            command,
            port=self.ports.internal,
            log_file=self.folder / "mosquitto.log",
            is_ready=lambda: all(map(_is_up, astuple(self.ports))),
        )
        if self._owner is None:
            self.server.unprivileged()
            return
        for file in (self.folder, *self.folder.rglob("*")):
            shutil.chown(file, self._owner, self._owner)

    def admission(
        self, reload: Reload | None = None, *, proof_within_s: float = 30.0
    ) -> MosquittoBroker:
        return MosquittoBroker(
            host="127.0.0.1",
            port=self.ports.internal,
            admin_password=self.secrets["admin"],
            password_file=self.passwords,
            reload=reload or PidFileReload(self.pid_file),
            proof_within_s=proof_within_s,
        )

    def scooter(self, name: str) -> Account:
        return self._account(name, self.ports.scooters)

    def operator(self, name: str) -> Account:
        return self._account(name, self.ports.operators)

    def fixed(self, name: str) -> Account:
        return Account(name, self.secrets[name], self.ports.internal)

    def log(self) -> str:
        return self.server.log_file.read_text(errors="replace")

    def client(self, account: Account, *, client_id: str | None = None, **more: object) -> Client:
        """A client of whoever this is; MQTT 5 unless told otherwise."""
        arguments: dict[str, object] = {
            "protocol": ProtocolVersion.V5,
            "tls_context": None if account.port == self.ports.internal else self.trusting(),
            **more,
        }
        return Client(
            "127.0.0.1",
            account.port,
            username=account.name,
            password=account.secret,
            identifier=client_id or f"t/{secrets.token_hex(6)}",
            **arguments,  # type: ignore[arg-type]
        )

    def kept(self, account: Account, *, client_id: str) -> Client:
        """A session that the broker keeps while its client is away."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        return self.client(account, client_id=client_id, clean_start=False, properties=properties)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.ca))

    async def lets_in(self, account: Account, *, client_id: str | None = None) -> bool:
        """Whether this login is accepted; the session is clean and ends at once."""
        tls = self.trusting() if account.port != self.ports.internal else None
        listener = Listener(host="127.0.0.1", port=account.port, tls=tls)
        login = Login(
            name=account.name,
            secret=account.secret,
            client_id=client_id or f"t/{secrets.token_hex(6)}",
        )
        async with connected(listener, login, within_s=10) as connection:
            return connection.accepted

    def _account(self, name: str, port: int) -> Account:
        secret = self.secrets.setdefault(name, new_secret())
        self.logins.setdefault(name, secret_hash(secret))
        return Account(name, secret, port)

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stop()


def stand_in_for_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `systemctl` on the path that reloads the broker whose pid file `PID_FILE` names."""
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
