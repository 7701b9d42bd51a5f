"""Mosquitto, Redis and Postgres as child processes on loopback, in one folder: demo and tests."""

import asyncio
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.accounts import write_private
from broker.config import Tls
from gateway.local.mosquitto_package import Mosquitto, find_mosquitto
from gateway.local.server_kinds import (
    POSTGRES_USER,
    REDIS_USER,
    mosquitto_server,
    postgres_server,
    prepare_postgres,
    redis_server,
)
from gateway.local.server_process import Server, ServerFailed

KINDS = ("mosquitto", "redis", "postgres")
GATEWAY = "gateway"
_SECRETS = "secrets.json"
_POSTGRES_LOGIN = "postgres.password"
# Below the range from which systems take the ports of outgoing connections, so that a server
# which is started again finds its port free.
_PORTS = range(15_000, 32_000)


class Servers:
    """Our own servers, for as long as a `with` or an `async with` block runs.

    One data folder keeps what they stored, and their passwords, for the next start; ports are free
    ones and may change. Raises ServerFailed with one sentence when one cannot be started, or when
    another process uses the folder. No server outlives this process, however it ends.
    `fresh=True` forgets what is there, at each start: only what `Servers` made itself.
    `fsync=False` is for tests: what Postgres has survives a killed server, not a power cut.
    """

    mqtt_host = "127.0.0.1"
    mqtt_username = GATEWAY

    def __init__(
        self,
        folder: Path,
        *,
        kinds: Sequence[str] = KINDS,
        fsync: bool = True,
        fresh: bool = False,
        tls: Tls | None = None,
        mosquitto: Mosquitto | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self._kinds = kinds
        self._fsync = fsync
        self._fresh = fresh
        self._tls = tls
        self._program = mosquitto
        self._servers: dict[str, Server] = {}
        self._lock: int | None = None
        self._secrets: dict[str, str] = {}
        self.mqtt_tls_port: int | None = None

    @property
    def mosquitto(self) -> Server:
        return self._servers["mosquitto"]

    @property
    def redis(self) -> Server:
        return self._servers["redis"]

    @property
    def postgres(self) -> Server:
        return self._servers["postgres"]

    @property
    def mqtt_port(self) -> int:
        return self.mosquitto.port

    @property
    def mqtt_password(self) -> str:
        """The secret of the account `gateway`, the only one the broker has."""
        return self._secrets["mqtt"]

    @property
    def redis_url(self) -> str:
        """For the gateway, which cannot FLUSHALL, CONFIG or touch foreign keys."""
        return f"redis://{REDIS_USER}:{self._secrets['redis']}@127.0.0.1:{self.redis.port}/0"

    @property
    def redis_admin_url(self) -> str:
        return f"redis://:{self._secrets['redis_admin']}@127.0.0.1:{self.redis.port}/0"

    @property
    def postgres_url(self) -> str:
        """The database `scooters`, as its owner, who may create databases too."""
        secret = self._secrets["postgres"]
        return f"postgresql://{POSTGRES_USER}:{secret}@127.0.0.1:{self.postgres.port}/scooters"

    @property
    def program(self) -> Mosquitto:
        """The Mosquitto that runs."""
        if self._program is None:
            self._program = find_mosquitto()
        return self._program

    def start(self) -> None:
        """Start all of them at once; returns when each serves."""
        self._take_folder()
        try:
            if self._fresh:
                self._empty_folder()
            self._load_secrets()
            self._servers = {kind: self._make(kind) for kind in self._kinds}
            for server in self._servers.values():
                server.launch()
            for server in self._servers.values():
                server.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop them in order, the broker first, and let the folder go."""
        for server in self._servers.values():
            server.stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self, kind: str) -> Server:
        folder = self.folder / kind
        if kind == "mosquitto":
            self.mqtt_tls_port = free_port() if self._tls else None
            return mosquitto_server(
                folder,
                self.program,
                secret=self._secrets["mqtt"],
                port=free_port(),
                tls=self._tls,
                tls_port=self.mqtt_tls_port,
            )
        if kind == "redis":
            return redis_server(
                folder,
                secret=self._secrets["redis"],
                admin_secret=self._secrets["redis_admin"],
                port=free_port(),
            )
        secret_file = self.folder / _POSTGRES_LOGIN
        write_private(secret_file, self._secrets["postgres"])
        prepare_postgres(folder, secret_file)
        return postgres_server(
            folder, secret=self._secrets["postgres"], port=free_port(), fsync=self._fsync
        )

    def _take_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode() or "another"
            os.close(lock)
            raise ServerFailed(
                f"The folder {self.folder} is in use by process {holder}: "
                "stop that one, or choose another folder."
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def _empty_folder(self) -> None:
        if not (self.folder / _SECRETS).exists():
            return  # not ours: what has these names belongs to someone else
        for kind in KINDS:
            if (self.folder / kind).is_dir():
                shutil.rmtree(self.folder / kind)
        for file in (_POSTGRES_LOGIN, _SECRETS):
            (self.folder / file).unlink(missing_ok=True)

    def _load_secrets(self) -> None:
        file = self.folder / _SECRETS
        if not file.exists():
            names = ("mqtt", "redis", "redis_admin", "postgres")
            write_private(file, json.dumps({name: secrets.token_hex(32) for name in names}))
        self._secrets = json.loads(file.read_text())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.start), name="start servers")
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # a thread cannot be cancelled
            self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - spread, not a secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
