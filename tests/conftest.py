"""Fixtures: shared servers for a session, a clean place in them for a test, servers to kill."""

import asyncio
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import structlog
from redis.asyncio import Redis

from gateway.links.broker import BrokerAddress
from gateway.local.mosquitto_package import Mosquitto, fetch_mosquitto
from gateway.local.servers import Servers
from tests.services import (
    MosquittoService,
    PostgresService,
    RedisService,
    run_mosquitto,
    run_postgres,
    run_redis,
    servers_of_tests,
)

_numbers = itertools.count(1)
_SHARED = {"mosquitto", "redis_server", "postgres_server"}


# What runs in the background ignores Ctrl-C, and so would every process that a test starts. A
# handler of ours, unlike that, is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_at_the_start() -> Iterator[None]:
    """A command that ran in this process leaves its log on a stream that is gone."""
    yield
    structlog.reset_defaults()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--services",
        choices=["auto", "local", "containers"],
        default="auto",
        help="servers under test: given by SCOOTER_TEST_{MQTT,REDIS,POSTGRES}_URL, else local "
        "(auto); started here (local); run by Docker (containers). A given broker needs the "
        "account and the access list of tests/accounts.py besides",
    )
    parser.addoption(
        "--shared-servers",
        action="store_true",
        help="only tests on the servers that --services is about; the others start their own, "
        "as child processes that they kill, freeze or move, or are about containers anyway",
    )
    parser.addoption(
        "--mosquitto",
        metavar="SUITE",
        help="fetch and use the Mosquitto of a Debian suite, such as bookworm-backports, instead "
        "of the installed one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--shared-servers"):
        kept = [item for item in items if _SHARED & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    for item in items:
        for kind in ("integration", "e2e"):
            if kind in item.path.parts:
                item.add_marker(kind)


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--services"))


@pytest.fixture(scope="session")
def mosquitto_program(request: pytest.FixtureRequest) -> Mosquitto | None:
    """Another Mosquitto than the one that is found anyway."""
    suite = request.config.getoption("--mosquitto")
    return fetch_mosquitto(suite) if suite else None


@pytest.fixture(scope="session")
def mosquitto(services: str, mosquitto_program: Mosquitto | None) -> Iterator[MosquittoService]:
    """One broker for the session; take fresh ids from `scooter_id` and `fresh_id`."""
    with run_mosquitto(services, mosquitto_program) as service:
        yield service


@pytest.fixture(scope="session")
def redis_server(services: str) -> Iterator[RedisService]:
    with run_redis(services) as service:
        yield service


@pytest.fixture(scope="session")
def postgres_server(services: str) -> Iterator[PostgresService]:
    with run_postgres(services) as service:
        yield service


@pytest.fixture
def broker(mosquitto: MosquittoService) -> BrokerAddress:
    """The broker, for the gateway's account."""
    return mosquitto.address()


@pytest.fixture
async def redis_url(redis_server: RedisService) -> str:
    """An empty Redis, for the gateway's restricted user."""
    async with Redis.from_url(redis_server.admin_url) as admin:
        await admin.flushall()
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def redis_admin(redis_server: RedisService) -> AsyncIterator[Redis]:
    """The same Redis, emptied, for the one who may do everything."""
    async with Redis.from_url(redis_server.admin_url) as client:
        await client.flushall()
        yield client


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresService) -> Iterator[str]:
    """The name of a migrated database that nobody connects to; a clone takes milliseconds."""
    name = f"template_{secrets.token_hex(6)}"
    with ThreadPoolExecutor(1) as elsewhere:  # a session's fixture has no event loop
        elsewhere.submit(asyncio.run, _make_template(postgres_server, name)).result()
        yield name
        dropped = f"DROP DATABASE {name} WITH (FORCE)"
        elsewhere.submit(asyncio.run, _execute(postgres_server, dropped)).result()


@pytest.fixture
async def postgres_url(
    postgres_server: PostgresService, postgres_template: str
) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    async with _database(postgres_server, template=postgres_template) as name:
        yield postgres_server.database_url(name)


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresService) -> AsyncIterator[str]:
    """A database of this test's own with nothing in it."""
    async with _database(postgres_server, template="template0") as name:
        yield postgres_server.database_url(name)


@pytest.fixture
def fresh_id() -> str:
    """An id nobody used before: for a scooter, an instance, a client."""
    return f"T{secrets.token_hex(3)}-{next(_numbers)}"


@pytest.fixture
def scooter_id() -> str:
    return f"S{secrets.token_hex(3)}-{next(_numbers)}"


@pytest.fixture
def own_servers(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[Servers]:
    """Three servers of this test's own, to kill, stop and pause; not migrated."""
    with servers_of_tests(
        tmp_path / "servers", fsync=False, mosquitto=mosquitto_program
    ) as servers:
        yield servers


@pytest.fixture
def own_mosquitto(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[Servers]:
    folder = tmp_path / "servers"
    with servers_of_tests(folder, kinds=["mosquitto"], mosquitto=mosquitto_program) as servers:
        yield servers


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Servers]:
    with servers_of_tests(tmp_path / "servers", kinds=["redis"]) as servers:
        yield servers


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Servers]:
    with servers_of_tests(tmp_path / "servers", kinds=["postgres"], fsync=False) as servers:
        yield servers


async def _make_template(server: PostgresService, name: str) -> None:
    from gateway.storage.migrate import migrate  # noqa: PLC0415 - only these tests need it

    await _execute(server, f"CREATE DATABASE {name}")
    await migrate(server.database_url(name))


async def _execute(server: PostgresService, statement: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def _database(server: PostgresService, *, template: str) -> AsyncIterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield name
    finally:
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
