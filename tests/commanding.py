"""Journey 2 from outside: a gateway in this process, scooters that answer, operators that ask."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiomqtt
import asyncpg
import orjson
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import SecretStr

from devices.contract import topics
from devices.contract.topics import Uplink
from devices.operators import Operators
from gateway import service
from gateway.metrics import Metrics
from gateway.settings import Settings
from tests.accounts import LOAD
from tests.eventually import end, eventually
from tests.services import MosquittoService

KEY: Final = "alice.laptop"
FIRST: Final = frozenset({"refused", "queued", "sent", "succeeded"})
"""How a command can begin; only a `cancel` begins with its success."""

FINAL: Final = frozenset(
    [
        "refused",
        "succeeded",
        "failed",
        "rejected",
        "timed_out",
        "expired",
        "cancelled",
        "superseded",
    ]
)

Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""What a scooter sends back for a command: ack bodies without `request_id`."""

_numbers = itertools.count(1)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def succeeds(command: dict[str, Any]) -> list[dict[str, Any]]:
    """As a scooter that stands still does."""
    lock = {"lock": "locked", "unlock": "unlocked"}.get(command["command"])
    changed = {"lock": lock, "tip": False} if lock else {}
    return [{"status": "received"}, {"status": "success", **changed}]


def is_silent(_command: dict[str, Any]) -> list[dict[str, Any]]:
    return []


class FakeScooter:
    """A scooter's connection with the test's answers; `commands` has what it was sent."""

    def __init__(self, client: aiomqtt.Client, scooter_id: str, answer: Answer) -> None:
        self._client = client
        self.scooter_id = scooter_id
        self.answer = answer
        self.boot = 1
        self._seq = itertools.count(1)
        self._conn = itertools.count(1)
        self._began = time.monotonic()
        self.commands: list[dict[str, Any]] = []
        self.payloads: list[bytes] = []
        self.received_at: list[float] = []

    @property
    def up(self) -> int:
        return 60_000 + int((time.monotonic() - self._began) * 1000)

    async def say(self, kind: Uplink, body: dict[str, Any]) -> None:
        topic = topics.uplink(self.scooter_id, kind)
        retain = kind is Uplink.STATUS
        await self._client.publish(topic, orjson.dumps(body), qos=1, retain=retain)

    async def born(self, **members: Any) -> None:  # noqa: ANN401 - of a status
        body = {"s": "online", "boot": self.boot, "conn": next(self._conn), "up": self.up}
        await self.say(Uplink.STATUS, body | members)

    async def goodbye(self, how: str = "sleeping") -> None:
        await self.say(Uplink.STATUS, {"s": how, "boot": self.boot, "up": self.up})

    async def report(self, **members: Any) -> None:  # noqa: ANN401 - of a report
        body = {"boot": self.boot, "seq": next(self._seq), "up": self.up}
        await self.say(Uplink.TELEMETRY, body | members)

    async def ack(self, request_id: str, **members: Any) -> None:  # noqa: ANN401 - of an ack
        body = {"request_id": request_id, "boot": self.boot, "seq": next(self._seq), "up": self.up}
        await self.say(Uplink.ACKS, body | members)

    async def listen(self) -> None:
        async for message in self._client.messages:
            assert isinstance(message.payload, bytes)
            command = orjson.loads(message.payload)
            self.payloads.append(message.payload)
            self.received_at.append(time.monotonic())
            self.commands.append(command)
            for each in self.answer(command):
                await self.ack(command["request_id"], **each)


class FakeOperator:
    """An operator's key; `replies` has what it heard."""

    def __init__(self, client: aiomqtt.Client, login: str) -> None:
        self._client = client
        self.login = login
        self.replies: list[dict[str, Any]] = []
        self.correlations: list[bytes | None] = []
        self.topics: list[str] = []

    async def listen(self) -> None:
        async for message in self._client.messages:
            assert isinstance(message.payload, bytes)
            self.replies.append(orjson.loads(message.payload))
            self.topics.append(str(message.topic))
            self.correlations.append(getattr(message.properties, "CorrelationData", None))

    async def ask(self, scooter_id: str, command: str, **members: Any) -> str:  # noqa: ANN401
        """Returns the ref."""
        body = {
            "ref": f"r{next(_numbers)}",
            "at": wall_ms(),
            "scooter_id": scooter_id,
            "command": command,
        }
        await self.publish(orjson.dumps(body | members))
        return str((body | members)["ref"])

    async def publish(
        self,
        payload: bytes,
        *,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        retain: bool = False,
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if correlation is not None:
            properties.CorrelationData = correlation
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        topic = topics.requests(self.login)
        await self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)

    def story(self, ref: str) -> list[str]:
        """The statuses that were replied, in order."""
        return [each["status"] for each in self.replies if each.get("ref") == ref]

    async def until(self, ref: str, status: str, *, within_s: float = 20.0) -> dict[str, Any]:
        """The first reply of that status."""

        async def probe() -> dict[str, Any] | None:
            return next(
                (e for e in self.replies if e.get("ref") == ref and e["status"] == status), None
            )

        try:
            return await eventually(probe, within_s=within_s, what=f"{status} of {ref}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.replies}") from None

    async def ended(self, ref: str, *, within_s: float = 20.0) -> dict[str, Any]:
        """The first final reply."""

        async def probe() -> dict[str, Any] | None:
            return next(
                (e for e in self.replies if e.get("ref") == ref and e["status"] in FINAL), None
            )

        return await eventually(probe, within_s=within_s, what=f"the end of {ref}: {self.replies}")


class Stage:
    """A broker, a Redis and a Postgres with gateways, scooters and operators on them."""

    def __init__(self, broker: MosquittoService, redis_url: str, postgres_url: str) -> None:
        self._broker = broker
        self._redis_url = redis_url
        self.postgres_url = postgres_url

    def settings(self, instance: str, **changes: Any) -> Settings:  # noqa: ANN401 - any setting
        values: dict[str, Any] = {
            "instance": instance,
            "mqtt_host": self._broker.host,
            "mqtt_port": self._broker.port,
            "mqtt_username": self._broker.username,
            "mqtt_password": SecretStr(self._broker.password),
            "redis_url": SecretStr(self._redis_url),
            "postgres_url": SecretStr(self.postgres_url),
            "lease_s": 1.5,
            "metrics_port": 0,
            "snapshot_period_s": 30.0,
        }
        return Settings(_env_file=None, **values | changes)

    @asynccontextmanager
    async def gateway(self, instance: str, **changes: Any) -> AsyncIterator[Metrics]:  # noqa: ANN401
        """A gateway that hears everything."""
        stop, metrics = asyncio.Event(), Metrics()
        settings = self.settings(instance, **changes)
        task = asyncio.create_task(service.run(settings, stop=stop, metrics=metrics))

        async def hears() -> bool:
            assert not task.done(), task.exception()
            names = ("downlink", "control", "telemetry")
            up = (metrics.value("gateway_connected", connection=each) for each in names)
            return all(up)

        try:
            await eventually(hears, within_s=30.0, what="the gateway to hear")
            yield metrics
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def scooter(
        self, scooter_id: str, answer: Answer = succeeds, *, listens: bool = True
    ) -> AsyncIterator[FakeScooter]:
        async with self._client(f"s-{scooter_id}") as client:
            scooter = FakeScooter(client, scooter_id, answer)
            if listens:
                await client.subscribe(topics.commands(scooter_id), qos=1)
            async with _listening(scooter.listen()):
                yield scooter

    @asynccontextmanager
    async def operator(self, login: str = KEY, *, protocol: int = 5) -> AsyncIterator[FakeOperator]:
        async with self._client(f"o-{login}-{next(_numbers)}", protocol=protocol) as client:
            operator = FakeOperator(client, login)
            await client.subscribe(f"{topics.replies(login)}/#", qos=1)
            async with _listening(operator.listen()):
                yield operator

    async def take(self, payload: bytes, *, response_topic: str) -> bool:
        """Whether the broker takes this request; one from 2.0.21 on ends who asks it wrongly."""
        try:
            async with self._client(f"o-{KEY}-{next(_numbers)}") as client:
                await FakeOperator(client, KEY).publish(payload, response_topic=response_topic)
        except aiomqtt.MqttError:
            return False
        return True

    async def grant(
        self, login: str = KEY, commands: tuple[str, ...] = ("*",), tags: tuple[str, ...] = ("*",)
    ) -> None:
        """An active key of an operator with this right."""
        operator = login.partition(".")[0]
        async with asyncpg.create_pool(self.postgres_url, min_size=1, max_size=1) as pool:
            operators = Operators(pool)
            await operators.add(operator, by="tests")
            await operators.add_key(login, PASSWORD_HASH, by="tests")
            await operators.grant(operator, commands, tags, by="tests")

    async def ask(self, question: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.postgres_url)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(question, *arguments)
            return rows
        finally:
            await connection.close()

    async def moves(self, ref: str) -> list[str]:
        """The ledger's story of a request."""
        rows = await self.ask(
            "SELECT m.status FROM command_moves m JOIN commands c USING (request_id) "
            "WHERE c.ref = $1 ORDER BY m.number",
            ref,
        )
        return [row[0] for row in rows]

    def _client(self, client_id: str, *, protocol: int = 5) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=client_id,
            username=LOAD.username,
            password=LOAD.password,
            protocol=aiomqtt.ProtocolVersion(protocol),
        )
        client.pending_calls_threshold = 1000
        return client


PASSWORD_HASH: Final = "$7$101$c2FsdHNhbHRzYWx0$" + "A" * 86 + "=="


@asynccontextmanager
async def _listening(work: Any) -> AsyncIterator[None]:  # noqa: ANN401 - a coroutine
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)
