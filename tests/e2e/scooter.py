"""A scooter that obeys as the contract says and keeps a journal of what it did."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiomqtt
import orjson
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.contract import topics
from devices.contract.commands import Command
from devices.contract.mac import command_key
from devices.contract.topics import Uplink
from devices.simulator.obedience import Obedience, Refuse, Repeat
from tests.accounts import LOAD
from tests.bundles import FLEET_SECRET

AGAIN_S: Final = 0.1


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One execution: `up_ms` by the scooter's uptime in `boot`, `at_ms` when it truly was."""

    scooter_id: str
    request_id: str
    command: str
    boot: int
    up_ms: int
    exp_ms: int | None
    at_ms: int


@dataclass(slots=True)
class Scooter:
    """A scooter that obeys as the contract says; its answers wait in `outbox` for a connection.

    `clock_off_ms`: how wrong its clock is; None: it has none. Unless `finishes`, it answers
    `received` and keeps the result until `finish`.
    """

    scooter_id: str
    clock_off_ms: int | None = 0
    finishes: bool = True
    boot: int = 1
    lock: str = "locked"
    executed: list[Executed] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    heard: list[tuple[bytes, bool]] = field(default_factory=list)
    repeated: int = 0
    outbox: deque[tuple[Uplink, bytes]] = field(default_factory=deque)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    obedience: Obedience = field(init=False)
    _booted: float = field(init=False)
    _seq: int = 0
    _conn: int = 0
    _unfinished: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.obedience = Obedience(self.scooter_id, command_key(FLEET_SECRET, self.scooter_id, 1))
        self._booted = time.monotonic() - 60

    @property
    def up_ms(self) -> int:
        return int((time.monotonic() - self._booted) * 1000)

    def say(self, kind: Uplink, body: dict[str, Any]) -> None:
        self.outbox.append((kind, orjson.dumps(body)))
        self.stirred.set()

    def born(self) -> None:
        self._conn += 1
        self.outbox.appendleft(
            (Uplink.STATUS, orjson.dumps(self._standing("online") | {"conn": self._conn}))
        )
        self.stirred.set()

    def goodbye(self, how: str = "sleeping") -> None:
        self.say(Uplink.STATUS, self._standing(how) | {"conn": self._conn})

    def report(self) -> None:
        groups = {"lock": self.lock, "tip": False, "batt": 80}
        self.say(Uplink.TELEMETRY, self._order() | groups)

    def ack(self, request_id: str, status: str, **more: object) -> bytes:
        body = {"request_id": request_id, "status": status} | self._order() | more
        self.say(Uplink.ACKS, body)
        return orjson.dumps(body)

    def reboot(self) -> None:
        """Everything in RAM is gone; the next connection says the new boot."""
        self.boot, self._seq, self._conn = self.boot + 1, 0, 0
        self._booted = time.monotonic()
        self.obedience.reboot()
        self.outbox.clear()
        self._unfinished.clear()

    def hear(self, payload: bytes, *, retained: bool) -> None:
        """A message on the commands topic, at this very moment."""
        self.heard.append((payload, retained))
        match self.obedience.judge(payload, retained=retained, boot=self.boot, up_ms=self.up_ms):
            case Command() as command:
                self._execute(command)
            case Refuse(request_id, error):
                self.refused.append((request_id, error))
                answer = self.ack(request_id, "rejected", error=error)
                self.obedience.end(request_id, answer, error=error)
            case Repeat(request_id, answer):
                self.repeated += 1
                if answer is None:
                    self.ack(request_id, "received")
                else:
                    self.outbox.append((Uplink.ACKS, answer))
                    self.stirred.set()

    def finish(self) -> None:
        """The bolt of what was received arrives."""
        self.finishes = True
        for command in self._unfinished:
            changed: dict[str, object] = {}
            if command.command in ("lock", "unlock"):
                self.lock = f"{command.command}ed"
                changed = {"lock": self.lock, "tip": False}
            answer = self.ack(command.request_id, "success", **changed)
            self.obedience.end(command.request_id, answer)
        self._unfinished.clear()

    def times(self, request_id: str) -> int:
        """How often it carried this command out."""
        return sum(each.request_id == request_id for each in self.executed)

    def _execute(self, command: Command) -> None:
        self.obedience.begin(command)
        self.executed.append(
            Executed(
                scooter_id=self.scooter_id,
                request_id=command.request_id,
                command=command.command,
                boot=self.boot,
                up_ms=self.up_ms,
                exp_ms=command.exp,
                at_ms=wall_ms(),
            )
        )
        self.ack(command.request_id, "received")
        self._unfinished.append(command)
        if self.finishes:
            self.finish()

    def _standing(self, how: str) -> dict[str, Any]:
        return {"s": how, "boot": self.boot, "up": self.up_ms}

    def _order(self) -> dict[str, Any]:
        self._seq += 1
        order = {"boot": self.boot, "seq": self._seq, "up": self.up_ms}
        if self.clock_off_ms is None:
            return order
        return order | {"ts": wall_ms() + self.clock_off_ms}

    @asynccontextmanager
    async def online(self, port: int, *, keeps_session: bool = False) -> AsyncIterator[None]:
        """Connected through this port, again after each loss; leaving says no goodbye.

        The broker queues for a scooter that keeps its session.
        """
        async with in_background(self._stay(port, keeps_session=keeps_session)):
            yield

    async def _stay(self, port: int, *, keeps_session: bool) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with client_of(port, f"s-{self.scooter_id}", keeps=keeps_session) as client:
                    await client.subscribe(topics.commands(self.scooter_id), qos=1)
                    self.born()
                    async with in_background(self._send(client)):
                        async for message in client.messages:
                            self.hear(bytes(message.payload), retained=bool(message.retain))
            await asyncio.sleep(AGAIN_S)

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            self.stirred.clear()
            while self.outbox:
                kind, payload = self.outbox[0]
                topic = topics.uplink(self.scooter_id, kind)
                await client.publish(topic, payload, qos=1, retain=kind is Uplink.STATUS)
                if self.outbox and self.outbox[0] == (kind, payload):  # a reboot empties it
                    self.outbox.popleft()
            await self.stirred.wait()


def client_of(port: int, name: str, *, keeps: bool, protocol: int = 5) -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    session: dict[str, Any] = {"clean_session": not keeps}
    if protocol == aiomqtt.ProtocolVersion.V5:
        session = {"clean_start": not keeps, "properties": properties if keeps else None}
    client = aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=name,
        username=LOAD.username,
        password=LOAD.password,
        protocol=aiomqtt.ProtocolVersion(protocol),
        keepalive=600,  # a frozen connection is ended by the test, not by the broker
        timeout=30.0,
        **session,
    )
    client.pending_calls_threshold = 10_000
    return client


@asynccontextmanager
async def in_background(work: Any) -> AsyncIterator[None]:  # noqa: ANN401 - a coroutine
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        while not task.done():  # Python 3.11's wait_for may swallow a cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, aiomqtt.MqttError):
            raise error
