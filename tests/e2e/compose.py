"""The containers of docker-compose.yml under a name of their own, and a scooter outside them."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiomqtt
import orjson

from devices.contract import topics
from devices.contract.topics import Uplink
from devices.simulator.obedience import Obedience
from gateway.local.servers import free_port
from tests.command_line import Ended
from tests.e2e.scooter import AGAIN_S, Scooter, in_background

ROOT: Final = Path(__file__).parents[2]
SERVERS: Final = ("broker", "redis", "postgres", "gateway")
_UP_S: Final = 420.0
_ASK_S: Final = 120.0
_RESEND_S: Final = 2.0


class NoEngine(Exception):
    """Why no container can be run here."""


class Compose:
    """One project: its containers, networks, volumes and image are its own."""

    def __init__(self) -> None:
        self.name = f"scooter-test-{secrets.token_hex(4)}"
        self.image = f"{self.name}:test"
        self._environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("SCOOTER_")},
            "SCOOTER_IMAGE": self.image,
            "SCOOTER_MQTT_OPERATORS_PORT": str(free_port()),
            "SCOOTER_MQTT_SCOOTERS_PORT": str(free_port()),
            "SCOOTER_MQTT_PUBLIC_ADDRESS": "127.0.0.1",
            "SCOOTER_SNAPSHOT_PERIOD_S": "2",
            "FLEET_SCOOTERS": "3",
        }

    def up(self, *profiles: str) -> None:
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        self.run(*chosen, "up", "--detach", "--wait", within_s=_UP_S)

    def down(self) -> None:
        self.run("down", "--timeout", "30", within_s=_UP_S)

    def run(self, *words: str, within_s: float = _ASK_S) -> str:
        """What `docker compose …` prints; raises AssertionError with what it complains of."""
        ended = self._compose(words, within_s)
        said = f"docker compose {' '.join(words)}: {ended.err[-3000:]}"
        assert ended.code == 0, f"{said}\n{self._compose(['logs', '--tail', '20'], _ASK_S).out}"
        return ended.out

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - whatever it printed
        """What `scooter … --json` prints in the gateway's container."""
        ended = self.scooter(*words, "--json")
        assert ended.code == 0, f"scooter {' '.join(words)}: {ended.err}"
        return ended.json

    def scooter(self, *words: str) -> Ended:
        """How `scooter …` ends in the gateway's container."""
        return _run([_docker(), "exec", self.container("gateway"), "scooter", *words], _ASK_S)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}-1"

    def hand_out(self, login: str, folder: Path) -> dict[str, Any]:
        """A bundle that was written in the container, out of it."""
        self.run("cp", f"gateway:/bundles/{login}", str(folder))
        document = json.loads((folder / login / "bundle.json").read_text())
        assert isinstance(document, dict)
        return document

    def inspected(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        (found,) = json.loads(docker("inspect", self.container(service)))
        assert isinstance(found, dict)
        return found

    def statuses(self) -> dict[str, str]:
        """Service → `Up 3 seconds (healthy)`, of those that run."""
        told = '{{.Label "com.docker.compose.service"}}\t{{.Status}}'
        mine = f"label=com.docker.compose.project={self.name}"
        lines = docker("ps", "--filter", mine, "--format", told).splitlines()
        found = (line.partition("\t") for line in lines)
        return {service: status for service, _, status in found}

    def kill(self, service: str) -> None:
        """SIGKILL, as a crash is: the engine starts it again. Where we may not, it is told to."""
        try:
            os.kill(self.pid(service), signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            docker("kill", "--signal", "KILL", self.container(service))
            docker("start", self.container(service))

    def pid(self, service: str) -> int:
        """The first process of the container, as this machine numbers it; 0 when it is not up."""
        return int(self.inspected(service)["State"]["Pid"])

    def remove(self) -> None:
        """Everything that was made, as far as it was."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("--profile", "demo", "down", "--timeout", "30", "--volumes", within_s=_UP_S)
        _run([_docker(), "image", "rm", "--force", self.image], _ASK_S)

    def _compose(self, words: Sequence[str], within_s: float) -> Ended:
        command = [
            *(_docker(), "compose", "--ansi", "never", "--project-name", self.name),
            *("--project-directory", str(ROOT), "--env-file", os.devnull, *words),
        ]
        return _run(command, within_s, self._environment)


@contextmanager
def running() -> Iterator[Compose]:
    """Up from nothing, and away again; raises NoEngine."""
    check_engine()
    compose = Compose()
    try:
        compose.up()
        yield compose
    finally:
        compose.remove()


def check_engine() -> None:
    """Raises NoEngine unless an engine with Compose answers and has, or gets, every image."""
    if shutil.which("docker") is None:
        raise NoEngine("there is no `docker` here")
    try:
        docker("info")
        docker("compose", "version")
        images = Compose().run("config", "--images").split()
        images += [line.split("=")[1] for line in _dockerfile() if line.startswith("ARG PYTHON_")]
        for image in sorted({each for each in images if not each.startswith("scooter-test-")}):
            _have(image)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        raise NoEngine(str(error)) from error


def docker(*words: str, within_s: float = _ASK_S) -> str:
    """What `docker …` prints; raises AssertionError with its last complaint."""
    ended = _run([_docker(), *words], within_s)
    complaint = (ended.err.strip() or ended.out.strip() or "no output").splitlines()[-1]
    assert ended.code == 0, f"docker {words[0]}: {complaint}"
    return ended.out


def _run(
    command: Sequence[str], within_s: float, environment: Mapping[str, str] | None = None
) -> Ended:
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _have(image: str) -> None:
    try:
        docker("image", "inspect", image)
    except AssertionError:
        docker("pull", "--quiet", image, within_s=300)


def _dockerfile() -> list[str]:
    return (ROOT / "Dockerfile").read_text().splitlines()


def _docker() -> str:
    return shutil.which("docker") or "docker"


@dataclass(slots=True)
class Rider(Scooter):
    """A scooter with a bundle, over TLS; it keeps every event until its receipt."""

    bundle: Mapping[str, Any] = field(default_factory=dict, repr=False)
    odometer_m: int = 0
    events: int = 0
    unreceipted: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Mapping[str, Any]) -> "Rider":
        rider = cls(bundle["scooter_id"], bundle=bundle)
        rider.obedience = Obedience(rider.scooter_id, bytes.fromhex(bundle["command_key"]))
        return rider

    def ride(self) -> None:
        """One report further."""
        self.odometer_m += 1
        groups = {"odo": self.odometer_m, "lat": 52.52, "lon": 13.405, "lock": self.lock}
        self.say(Uplink.TELEMETRY, self._order() | groups)

    def fall(self) -> None:
        """Something that must not be lost."""
        self.events += 1
        name = f"e-{self.events}"
        self.unreceipted[name] = orjson.dumps({"id": name, "ev": "fall", **self._order()})
        self.outbox.append((Uplink.EVENTS, self.unreceipted[name]))
        self.stirred.set()

    async def rides(self) -> None:
        """Go on until cancelled."""
        while True:
            self.ride()
            self.fall()
            await asyncio.sleep(0.5)  # its interval

    async def _stay(self, port: int, *, keeps_session: bool) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with self._client(port) as client:
                    await client.subscribe(topics.commands(self.scooter_id), qos=1)
                    await client.subscribe(topics.receipts(self.scooter_id))
                    self.born()
                    async with in_background(self._send(client)), in_background(self._repeat()):
                        async for message in client.messages:
                            self._receive(message)
            await asyncio.sleep(AGAIN_S)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(_RESEND_S)  # a receipt may come meanwhile
            if not self.outbox:
                self.outbox.extend((Uplink.EVENTS, each) for each in self.unreceipted.values())
                self.stirred.set()

    def _receive(self, message: aiomqtt.Message) -> None:
        if message.topic.value == topics.receipts(self.scooter_id):
            for name in orjson.loads(bytes(message.payload))["ids"]:
                self.unreceipted.pop(name, None)
        else:
            self.hear(bytes(message.payload), retained=bool(message.retain))

    def _client(self, port: int) -> aiomqtt.Client:
        return aiomqtt.Client(
            self.bundle["host"],
            port,
            identifier=self.scooter_id,
            username=self.bundle["username"],
            password=self.bundle["secret"],
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=ssl.create_default_context(cadata=self.bundle["authority"]),
            keepalive=10,
            timeout=10.0,
        )
