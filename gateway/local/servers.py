"""Mosquitto, Redis and Postgres as child processes on loopback, in one folder: demo and tests."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.accounts import write_private
from broker.config import Ports, Tls
from gateway.local.data_folder import AUTHORITY, POSTGRES_LOGIN, DataFolder, free_port
from gateway.local.mosquitto_package import Mosquitto, find_mosquitto
from gateway.local.mosquitto_server import (
    ADMIN,
    GATEWAY,
    PASSWORDS,
    PID,
    More,
    mosquitto_server,
)
from gateway.local.server_kinds import (
    POSTGRES_USER,
    REDIS_USER,
    RedisSecrets,
    postgres_server,
    prepare_postgres,
    redis_server,
)
from gateway.local.server_process import Server
from gateway.storage.readers import POSTGRES_READER, REDIS_READER

__all__ = ["KINDS", "Servers", "free_port"]

KINDS = ("mosquitto", "redis", "postgres")


class Servers:
    """Our own servers, for as long as a `with` or an `async with` block runs.

    One data folder keeps what they stored, their passwords and the broker's authority for the next
    start, and their ports too, as far as these are free then. Raises ServerFailed with one sentence
    when one cannot be started, or when another process uses the folder. No server outlives this
    process, however it ends.
    `fresh=True` forgets what is there, at each start: only what `Servers` made itself.
    `more_accounts` (secrets by name) and `more_acl` are for tests: the broker has them besides.
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
        more_accounts: Mapping[str, str] | None = None,
        more_acl: str = "",
    ) -> None:
        self._data = DataFolder(folder)
        self.folder = self._data.path
        self._kinds = kinds
        self._fsync = fsync
        self._fresh = fresh
        self._tls = tls
        self._more_accounts = dict(more_accounts or {})
        self._more_acl = more_acl
        self._program = mosquitto
        self._servers: dict[str, Server] = {}
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
        """The secret of the account `gateway`."""
        return self._data.secrets["mqtt"]

    @property
    def mqtt_admin_password(self) -> str:
        """The secret of the account `admin`, which only takes sessions over."""
        return self._data.secrets["mqtt_admin"]

    @property
    def mqtt_operators_port(self) -> int:
        return self._data.ports["operators"]

    @property
    def mqtt_scooters_port(self) -> int:
        return self._data.ports["scooters"]

    @property
    def authority_file(self) -> Path:
        """The authority that the broker's certificate is from, for whoever connects with TLS."""
        return self.folder / AUTHORITY / "ca.crt"

    @property
    def password_file(self) -> Path:
        """The broker's password file; the fixed accounts stand in one beside it."""
        return self.folder / "mosquitto" / PASSWORDS

    @property
    def broker_reload(self) -> str:
        """How the broker is told of a new password file, as `parse_reload` reads it."""
        return f"pid:{self.folder / 'mosquitto' / PID}"

    @property
    def redis_url(self) -> str:
        """For the gateway, which cannot FLUSHALL, CONFIG or touch foreign keys."""
        return f"redis://{REDIS_USER}:{self._data.secrets['redis']}@127.0.0.1:{self.redis.port}/0"

    @property
    def redis_admin_url(self) -> str:
        return f"redis://:{self._data.secrets['redis_admin']}@127.0.0.1:{self.redis.port}/0"

    @property
    def redis_reader_url(self) -> str:
        """For backend developers, who may read states and nothing else."""
        secret = self._data.secrets["redis_reader"]
        return f"redis://{REDIS_READER}:{secret}@127.0.0.1:{self.redis.port}/0"

    @property
    def postgres_url(self) -> str:
        """The database `scooters`, as its owner, who may create databases too."""
        secret = self._data.secrets["postgres"]
        return f"postgresql://{POSTGRES_USER}:{secret}@127.0.0.1:{self.postgres.port}/scooters"

    @property
    def postgres_reader_url(self) -> str:
        """The same database for backend developers, who may read what was granted to them."""
        secret = self._data.secrets["postgres_reader"]
        return f"postgresql://{POSTGRES_READER}:{secret}@127.0.0.1:{self.postgres.port}/scooters"

    @property
    def program(self) -> Mosquitto:
        """The Mosquitto that runs."""
        if self._program is None:
            self._program = find_mosquitto()
        return self._program

    def start(self) -> None:
        """Start all of them at once; returns when each serves."""
        self._data.take()
        try:
            if self._fresh:
                self._data.empty()
            self._data.load()
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
        self._data.release()

    def _make(self, kind: str) -> Server:
        folder = self.folder / kind
        if kind == "mosquitto":
            return self._make_mosquitto(folder)
        if kind == "redis":
            redis_secrets = RedisSecrets(
                gateway=self._data.secrets["redis"],
                reader=self._data.secrets["redis_reader"],
                admin=self._data.secrets["redis_admin"],
            )
            return redis_server(folder, secrets=redis_secrets, port=self._data.ports["redis"])
        secret_file = self.folder / POSTGRES_LOGIN
        write_private(secret_file, self._data.secrets["postgres"])
        prepare_postgres(folder, secret_file)
        return postgres_server(
            folder,
            secret=self._data.secrets["postgres"],
            reader_secret=self._data.secrets["postgres_reader"],
            port=self._data.ports["postgres"],
            fsync=self._fsync,
        )

    def _make_mosquitto(self, folder: Path) -> Server:
        self.mqtt_tls_port = free_port() if self._tls else None
        ports = Ports(
            internal=self._data.ports["mosquitto"],
            operators=self._data.ports["operators"],
            scooters=self._data.ports["scooters"],
        )
        more = More(
            accounts=self._more_accounts,
            acl=self._more_acl,
            tls=self._tls,
            tls_port=self.mqtt_tls_port,
        )
        accounts = {GATEWAY: self._data.secrets["mqtt"], ADMIN: self._data.secrets["mqtt_admin"]}
        return mosquitto_server(folder, self.program, secrets=accounts, ports=ports, more=more)

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
