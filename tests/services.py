"""The servers under test: given by address, started here, or run in containers; same handles."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gateway.links.broker import BrokerAddress
from gateway.local.mosquitto_package import Mosquitto
from gateway.local.servers import Servers
from tests.accounts import LOAD, LOAD_ACL

servers_of_tests = partial(Servers, more_accounts={LOAD.username: LOAD.password}, more_acl=LOAD_ACL)
"""Servers with the tests' account `load`."""


@dataclass(frozen=True, slots=True)
class MosquittoService:
    """A broker with the shipped files and, besides, the tests' account `load`.

    `port` is the plain listener of the gateway, whose account `username` and `password` are. What
    a given broker does not tell is None.
    """

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    operators_port: int | None = None
    scooters_port: int | None = None
    authority_file: Path | None = None
    admin_password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    reload: str | None = None

    def address(self, *, keepalive_s: int = 15) -> BrokerAddress:
        return BrokerAddress(
            host=self.host,
            port=self.port,
            username=self.username,
            password=self.password,
            keepalive_s=keepalive_s,
        )


@dataclass(frozen=True, slots=True)
class RedisService:
    """A Redis for the gateway's restricted user, who may empty it, and backend developers."""

    url: str = field(repr=False)
    admin_url: str = field(repr=False)
    reader_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PostgresService:
    """A Postgres whose user may create databases, and whose readers' role is there."""

    url: str = field(repr=False)
    reader_url: str | None = field(default=None, repr=False)

    def database_url(self, name: str) -> str:
        """The address of another database of the same server."""
        return in_database(self.url, name)


@contextmanager
def run_mosquitto(way: str, program: Mosquitto | None = None) -> Iterator[MosquittoService]:
    if given := _given("MQTT", way):
        parts = urlsplit(given)
        yield MosquittoService(
            parts.hostname or "127.0.0.1",
            parts.port or 1883,
            parts.username or "gateway",
            parts.password or "",
        )
    elif way == "containers":
        from tests.containers import mosquitto_container  # noqa: PLC0415 - needs Docker

        with mosquitto_container() as service:
            yield service
    else:
        with _local("mosquitto", program) as servers:
            yield mosquitto_of(servers)


@contextmanager
def run_redis(way: str) -> Iterator[RedisService]:
    if given := _given("REDIS", way):
        yield RedisService(given, given)
    elif way == "containers":
        from tests.containers import redis_container  # noqa: PLC0415 - needs Docker

        with redis_container() as service:
            yield service
    else:
        with _local("redis") as servers:
            yield RedisService(servers.redis_url, servers.redis_admin_url, servers.redis_reader_url)


@contextmanager
def run_postgres(way: str) -> Iterator[PostgresService]:
    if given := _given("POSTGRES", way):
        yield PostgresService(given)
    elif way == "containers":
        from tests.containers import postgres_container  # noqa: PLC0415 - needs Docker

        with postgres_container() as service:
            yield service
    else:
        with _local("postgres") as servers:
            yield PostgresService(servers.postgres_url, servers.postgres_reader_url)


def mosquitto_of(servers: Servers) -> MosquittoService:
    return MosquittoService(
        servers.mqtt_host,
        servers.mqtt_port,
        servers.mqtt_username,
        servers.mqtt_password,
        operators_port=servers.mqtt_operators_port,
        scooters_port=servers.mqtt_scooters_port,
        authority_file=servers.authority_file,
        admin_password=servers.mqtt_admin_password,
        password_file=servers.password_file,
        reload=servers.broker_reload,
    )


def in_database(url: str, name: str) -> str:
    """The same server and login, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _given(server: str, way: str) -> str | None:
    """An address from the environment wins, unless a way is forced."""
    return os.environ.get(f"SCOOTER_TEST_{server}_URL") if way == "auto" else None


@contextmanager
def _local(kind: str, program: Mosquitto | None = None) -> Iterator[Servers]:
    with (
        tempfile.TemporaryDirectory(prefix="scooter-test-") as folder,
        servers_of_tests(Path(folder), kinds=[kind], fsync=False, mosquitto=program) as servers,
    ):
        yield servers
