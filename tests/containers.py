"""The same servers in containers, through testcontainers' generic one, with the shipped files."""

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.container import DockerContainer

from broker.accounts import write_private
from broker.certificates import ensure_authority
from broker.config import SHIPPED_ACL, Ports, fill_config
from gateway.local.mosquitto_server import ADMIN, GATEWAY, mosquitto_serves, write_accounts
from gateway.local.server_kinds import RedisSecrets, reader_role, redis_config, redis_serves
from gateway.storage.readers import POSTGRES_READER, REDIS_READER
from tests.accounts import LOAD, LOAD_ACL
from tests.services import MosquittoService, PostgresService, RedisService

ROOT = Path(__file__).parents[1]
CONFIG = Path("/mosquitto/config")
WATCH = ROOT / "broker" / "watch-passwords.sh"
REDIS_PORT = 6379
EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container; published on loopback
SECRET = "only-for-tests"  # noqa: S105 - servers that live for one test session


def image(name: str) -> str:
    """The one that docker-compose.yml runs, with its tag."""
    found = re.search(rf"image: ({name}:\S+)", (ROOT / "docker-compose.yml").read_text())
    assert found, name
    return found[1]


@contextmanager
def mosquitto_container() -> Iterator[MosquittoService]:
    """The folder of its files is shared: it loads a password file that is replaced here."""
    with tempfile.TemporaryDirectory() as name:
        _write_broker_files(Path(name))
        container = (
            DockerContainer(image("eclipse-mosquitto"))
            .with_volume_mapping(name, str(CONFIG), "ro")
            .with_volume_mapping(str(WATCH), f"/{WATCH.name}", "ro")
            .with_command(
                f"/{WATCH.name} {CONFIG}/passwords {CONFIG}/authority/server.crt -- "
                f"mosquitto -c {CONFIG}/mosquitto.conf"
            )
        )
        ports = Ports()
        published = (ports.internal, ports.operators, ports.scooters)
        with container.with_exposed_ports(*published) as running:
            host, port = _address(running, ports.internal)
            _wait(lambda: mosquitto_serves(host, port, SECRET), "Mosquitto", running)
            yield MosquittoService(
                host,
                port,
                GATEWAY,
                SECRET,
                operators_port=_address(running, ports.operators)[1],
                scooters_port=_address(running, ports.scooters)[1],
                authority_file=Path(name) / "authority" / "ca.crt",
                admin_password=SECRET,
                password_file=Path(name) / "passwords",
                reload="watched",
            )


def _write_broker_files(folder: Path) -> None:
    ensure_authority(folder / "authority")
    text = fill_config(
        internal_address=EVERYWHERE,
        data=Path("/mosquitto/data"),
        passwords=CONFIG / "passwords",
        acl=CONFIG / "acl",
        certificate=CONFIG / "authority" / "server.crt",
        key=CONFIG / "authority" / "server.key",
        user="root",  # there; it must read files that are private to us here
    )
    write_private(folder / "mosquitto.conf", text)
    write_private(folder / "acl", SHIPPED_ACL.read_text() + LOAD_ACL)
    write_accounts(folder, {GATEWAY: SECRET, ADMIN: SECRET, LOAD.username: LOAD.password})


@contextmanager
def redis_container() -> Iterator[RedisService]:
    with tempfile.TemporaryDirectory() as name:
        text = redis_config(
            Path("/data"),
            secrets=RedisSecrets(gateway=SECRET, reader=SECRET, admin=SECRET),
            port=REDIS_PORT,
            address=EVERYWHERE,
        )
        (Path(name) / "redis.conf").write_text(text)
        Path(name).chmod(0o755)  # the container's user is another one
        container = (
            DockerContainer(image("redis"))
            .with_volume_mapping(name, "/config", "ro")
            .with_command("redis-server /config/redis.conf")
        )
        with container.with_exposed_ports(REDIS_PORT) as running:
            host, port = _address(running, REDIS_PORT)
            _wait(lambda: redis_serves(host, port, SECRET), "Redis", running)
            at = f"{host}:{port}/0"
            yield RedisService(
                f"redis://gateway:{SECRET}@{at}",
                f"redis://:{SECRET}@{at}",
                f"redis://{REDIS_READER}:{SECRET}@{at}",
            )


@contextmanager
def postgres_container() -> Iterator[PostgresService]:
    container = (
        DockerContainer(image("postgres"))
        .with_env("POSTGRES_USER", "scooter")
        .with_env("POSTGRES_PASSWORD", SECRET)
        .with_env("POSTGRES_DB", "scooters")
        .with_command("postgres -c fsync=off")
    )
    with container.with_exposed_ports(5432) as running:
        host, port = _address(running, 5432)
        # The image starts a first server on its Unix socket alone, so this asks over TCP.
        probe = "pg_isready --quiet --host=127.0.0.1 --username=scooter --dbname=scooters"
        _wait(lambda: running.exec(probe).exit_code == 0, "Postgres", running)
        running.exec(["psql", "-U", "scooter", "-d", "scooters", "-c", reader_role(SECRET)])
        at = f"{host}:{port}/scooters"
        yield PostgresService(
            f"postgresql://scooter:{SECRET}@{at}", f"postgresql://{POSTGRES_READER}:{SECRET}@{at}"
        )


def _address(container: DockerContainer, port: int) -> tuple[str, int]:
    return container.get_container_host_ip(), int(container.get_exposed_port(port))


def _wait(is_ready: Callable[[], bool], name: str, container: DockerContainer) -> None:
    give_up_at = time.monotonic() + 60
    while not is_ready():
        inside = container.get_wrapped_container()
        inside.reload()
        if inside.status == "exited" or time.monotonic() > give_up_at:
            output = b"".join(container.get_logs()).decode(errors="replace")
            raise AssertionError(f"{name} does not answer in its container: {output[-500:]}")
        time.sleep(0.05)
