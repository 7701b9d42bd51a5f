"""A session under test with what it yielded, and scooters' reports to send it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import mqtt5

from gateway.links.batch import Batch
from gateway.links.broker import BrokerAddress
from gateway.links.delivery import Outcome
from gateway.links.plans import TELEMETRY_REST_S, SessionPlan
from gateway.links.uplink import Session
from gateway.metrics import Metrics
from tests.accounts import LOAD
from tests.eventually import eventually


def plan(instance: str, **changes: object) -> SessionPlan:
    values: dict[str, object] = {
        "name": "telemetry",
        "client_id": f"{instance}/telemetry",
        "filters": (f"scooters/{instance}/telemetry",),
        "held_max": 8192,
        "session_expiry_s": 3600,
        "instance": instance,
        "rest_s": TELEMETRY_REST_S,
        **changes,
    }
    return SessionPlan(**values)  # type: ignore[arg-type]


async def always() -> bool:
    return True


class Running:
    """A session that runs, its batches kept in `batches` and settled by `settle` when it is set."""

    def __init__(self, session: Session, metrics: Metrics) -> None:
        self.session = session
        self.metrics = metrics
        self.batches: list[Batch] = []
        self.payloads: list[bytes] = []
        self.settles = True

    async def consume(self) -> None:
        async for batch in self.session.batches():
            self.batches.append(batch)
            self.payloads += [each.payload for each in batch.deliveries]
            if self.settles:
                batch.settle([Outcome.APPLIED] * len(batch.deliveries))

    def settle_all(self) -> None:
        for batch in self.batches:
            batch.settle([Outcome.APPLIED] * len(batch.deliveries))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gateway_{name}", labels) or 0.0

    def outcome(self, outcome: Outcome) -> float:
        return self.count("deliveries_total", outcome=outcome.value)

    def balance(self) -> float:
        """Received less outcomes and in flight: always 0."""
        ended = sum(self.outcome(outcome) for outcome in Outcome)
        return self.count("deliveries_received_total") - ended - self.count("deliveries_in_flight")

    async def until(self, holds: Callable[[], bool], what: str, within_s: float = 15.0) -> None:
        async def probe() -> bool:
            return holds()

        await eventually(probe, what=what, within_s=within_s)


@asynccontextmanager
async def running(
    broker: BrokerAddress,
    its_plan: SessionPlan,
    *,
    settles: bool = True,
    consumes: bool = True,
    connected: bool = True,
) -> AsyncIterator[Running]:
    metrics = Metrics()
    session = Session(its_plan, broker, metrics, may_connect=always)
    run = Running(session, metrics)
    run.settles = settles
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(session.run())]
        if consumes:
            tasks.append(group.create_task(run.consume()))
        try:
            if connected:
                await run.until(lambda: session.connected, "the session to connect")
            yield run
        finally:
            for task in tasks:
                task.cancel()


async def send(
    host: str, port: int, topic: str, payloads: Sequence[bytes], *, qos: int = 1
) -> None:
    """Publish as a scooter does, each after the broker's PUBACK of the one 10 before it."""
    reader, writer = await asyncio.open_connection(host, port)
    username, password = LOAD
    connect = mqtt5.ConnectPacket(
        "", username=username, password=password.encode(), clean_start=True
    )
    writer.write(connect.write())
    unread = 0
    for number, payload in enumerate(payloads, 1):
        report = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS(qos), packet_id=number % 60_000 + 1 if qos else None
        )
        writer.write(report.write())
        unread += qos
        if unread >= 10:
            await _read_pubacks(reader, unread)
            unread = 0
    await _read_pubacks(reader, unread)
    writer.write(mqtt5.DisconnectPacket().write())
    await writer.drain()
    await reader.read()  # to the broker's end: closing earlier may reset what it has not read
    writer.close()
    await writer.wait_closed()


async def _read_pubacks(reader: asyncio.StreamReader, count: int) -> None:
    while count:
        head = await reader.readexactly(2)
        await reader.readexactly(head[1])
        count -= head[0] == 0x40
