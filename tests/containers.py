"""The same servers in containers, through testcontainers' generic one, with the shipped files."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.container import DockerContainer

from broker.accounts import password_entry
from broker.config import SHIPPED_ACL, fill_config
from gateway.local.mosquitto_server import mosquitto_serves
from gateway.local.server_kinds import RedisSecrets, redis_config, redis_serves
from tests.services import MosquittoService, PostgresService, RedisService

MOSQUITTO_IMAGE = "eclipse-mosquitto:2.0"
REDIS_IMAGE = "redis:8-alpine"
POSTGRES_IMAGE = "postgres:17-alpine"
MQTT_PORT = 8884
REDIS_PORT = 6379
EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container; published on loopback
SECRET = "only-for-tests"  # noqa: S105 - servers that live for one test session


@contextmanager
def mosquitto_container() -> Iterator[MosquittoService]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = fill_config(
            port=MQTT_PORT,
            address=EVERYWHERE,
            data=Path("/mosquitto/data"),
            passwords=Path("/mosquitto/config/passwords"),
            acl=Path("/mosquitto/config/acl"),
        )
        (folder / "mosquitto.conf").write_text(text)
        (folder / "acl").write_text(SHIPPED_ACL.read_text())
        (folder / "passwords").write_text(password_entry("gateway", SECRET) + "\n")
        folder.chmod(0o755)  # the container's user is another one
        container = DockerContainer(MOSQUITTO_IMAGE).with_volume_mapping(
            name, "/mosquitto/config", "ro"
        )
        with container.with_exposed_ports(MQTT_PORT) as running:
            host, port = _address(running, MQTT_PORT)
            _wait(lambda: mosquitto_serves(host, port, SECRET), "Mosquitto", running)
            yield MosquittoService(host, port, "gateway", SECRET)


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
            DockerContainer(REDIS_IMAGE)
            .with_volume_mapping(name, "/config", "ro")
            .with_command("redis-server /config/redis.conf")
        )
        with container.with_exposed_ports(REDIS_PORT) as running:
            host, port = _address(running, REDIS_PORT)
            _wait(lambda: redis_serves(host, port, SECRET), "Redis", running)
            at = f"{host}:{port}/0"
            yield RedisService(f"redis://gateway:{SECRET}@{at}", f"redis://:{SECRET}@{at}")


@contextmanager
def postgres_container() -> Iterator[PostgresService]:
    container = (
        DockerContainer(POSTGRES_IMAGE)
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
        yield PostgresService(f"postgresql://scooter:{SECRET}@{host}:{port}/scooters")


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
