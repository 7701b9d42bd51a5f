"""The folder of our servers: one process at a time, and what it keeps for the next start."""

import fcntl
import json
import os
import random
import secrets
import shutil
import socket
from pathlib import Path
from typing import Final

from broker.accounts import write_private
from gateway.local.server_process import ServerFailed

AUTHORITY: Final = "authority"
POSTGRES_LOGIN: Final = "postgres.password"
_SECRETS: Final = "secrets.json"
_PORTS: Final = "ports.json"
_SECRET_NAMES: Final = (
    *("mqtt", "mqtt_admin", "redis", "redis_admin", "redis_reader"),
    *("postgres", "postgres_reader"),
)
_PORT_NAMES: Final = ("mosquitto", "operators", "scooters", "redis", "postgres")
_MADE_HERE: Final = ("mosquitto", "redis", "postgres", AUTHORITY)
# Below the range from which systems take the ports of outgoing connections, so that a server
# which is started again finds its port free.
_PORT_RANGE: Final = range(15_000, 32_000)


class DataFolder:
    """Holds `path` from `take` to `release`; then has the secrets and ports of its servers."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.secrets: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self._lock: int | None = None

    def take(self) -> None:
        """Raises ServerFailed when another process has it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode() or "another"
            os.close(lock)
            raise ServerFailed(
                f"The folder {self.path} is in use by process {holder}: "
                "stop that one, or choose another folder."
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def empty(self) -> None:
        """Forget all that was kept, but nothing that has these names and was not made here."""
        if not (self.path / _SECRETS).exists():
            return
        for name in _MADE_HERE:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for file in (POSTGRES_LOGIN, _PORTS, _SECRETS):
            (self.path / file).unlink(missing_ok=True)

    def load(self) -> None:
        """Secrets as they were made first; ports as they were chosen first, if they are free."""
        kept = self._read(_SECRETS)
        self.secrets = {name: secrets.token_hex(32) for name in _SECRET_NAMES} | kept
        if self.secrets != kept:
            write_private(self.path / _SECRETS, json.dumps(self.secrets))
        chosen = self._read(_PORTS)
        for name in _PORT_NAMES:
            port = chosen.get(name)
            self.ports[name] = port if port and _is_free(port) else free_port()
        if self.ports != chosen:
            write_private(self.path / _PORTS, json.dumps(self.ports))

    def _read(self, name: str) -> dict:  # type: ignore[type-arg]
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else {}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while not _is_free(port := random.choice(_PORT_RANGE)):  # noqa: S311 - spread, not a secret
        continue
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that are closed already are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
