"""The simulated fleet against a real broker: what a subscriber sees obeys the contract."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
import orjson
import pytest

from devices.contract import messages, topics
from devices.contract.topics import Uplink
from devices.simulator.outbox import Message
from devices.simulator.plan import Broker, FleetPlan, Mishaps, Totals
from devices.simulator.scooter import Journal, run_fleet
from gateway.links.broker import BrokerAddress
from gateway.local.servers import Servers
from tests.accounts import LOAD
from tests.eventually import eventually
from tests.services import mosquitto_of

pytestmark = pytest.mark.integration

ROUGH = Mishaps(
    coverage_losses_per_h=60, reboots_per_h=30, falls_per_h=60, sleeps_per_h=30, clockless_share=0.3
)
ADAPTERS = {
    Uplink.TELEMETRY: messages.TELEMETRY.validate_json,
    Uplink.TELEMETRY_BATCH: messages.TELEMETRY_BATCH.validate_json,
    Uplink.EVENTS: messages.EVENT.validate_json,
    Uplink.STATUS: messages.STATUS.validate_json,
}


@dataclass
class Heard:
    """What the broker gave a subscriber with the gateway's account, in order."""

    client: aiomqtt.Client
    prefix: str
    messages: list[tuple[str, Uplink, Any]] = field(default_factory=list)

    async def listen(self) -> None:
        async for message in self.client.messages:
            source = topics.parse_uplink(message.topic.value)
            assert source is not None
            if source.scooter_id.startswith(self.prefix):
                said = ADAPTERS[source.uplink](bytes(message.payload))
                self.messages.append((source.scooter_id, source.uplink, said))

    def of(self, uplink: Uplink) -> list[tuple[str, Any]]:
        return [(scooter_id, said) for scooter_id, kind, said in self.messages if kind is uplink]

    def statuses(self, s: str) -> list[tuple[str, int, int]]:
        """Who said `s` in which boot and connection."""
        told = self.of(Uplink.STATUS)
        return [(each, said["boot"], said["conn"]) for each, said in told if said["s"] == s]

    async def say(self, scooter_id: str, status: bytes) -> None:
        await self.client.publish(topics.uplink(scooter_id, Uplink.STATUS), status, qos=1)

    async def receipt(self, scooter_id: str, event_ids: list[str]) -> None:
        for payload in messages.build_receipts(event_ids):
            await self.client.publish(topics.receipts(scooter_id), payload)


@dataclass
class Fleet:
    """A fleet that rides until the test ends."""

    task: asyncio.Task[None]
    stop: asyncio.Event
    totals: Totals


@asynccontextmanager
async def listening(broker: BrokerAddress, prefix: str) -> AsyncIterator[Heard]:
    async with aiomqtt.Client(
        broker.host, broker.port, username=broker.username, password=broker.password
    ) as client:
        await client.subscribe("scooters/+/+", qos=1)
        heard = Heard(client, prefix)
        task = asyncio.create_task(heard.listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def riding(
    broker: BrokerAddress, plan: FleetPlan, journal: Journal | None = None
) -> AsyncIterator[Fleet]:
    stop, totals = asyncio.Event(), Totals()
    address = Broker(broker.host, broker.port, *LOAD)
    task = asyncio.create_task(run_fleet(plan, address, stop=stop, totals=totals, journal=journal))
    try:
        yield Fleet(task, stop, totals)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


async def becomes(probe: Callable[[], object], what: str) -> None:
    async def ask() -> bool:
        return bool(probe())

    await eventually(ask, within_s=30, what=what)


async def test_a_subscriber_sees_only_what_the_contract_allows(
    broker: BrokerAddress, fresh_id: str
) -> None:
    plan = FleetPlan(size=12, prefix=f"{fresh_id}-", pace=20, mishaps=ROUGH)
    async with listening(broker, plan.prefix) as heard:
        async with riding(broker, plan) as fleet:
            await becomes(lambda: all(heard.of(kind) for kind in ADAPTERS), "every kind of message")
            await becomes(lambda: len(heard.messages) > 300, "300 messages")
        await becomes(lambda: len(heard.messages) >= fleet.totals.sent, "all that was sent")

    scooter_ids = {scooter_id for scooter_id, _, _ in heard.messages}
    assert scooter_ids == set(plan.scooter_ids())
    for each in scooter_ids:
        kind, said = next((kind, said) for who, kind, said in heard.messages if who == each)
        assert (kind, said["s"]) == (Uplink.STATUS, "online")
    reports = Counter(
        (scooter_id, said["boot"], said["seq"]) for scooter_id, said in heard.of(Uplink.TELEMETRY)
    )
    assert max(reports.values()) == 1


async def test_an_unreceipted_event_is_sent_again_and_a_receipted_one_is_not(
    broker: BrokerAddress, fresh_id: str
) -> None:
    plan = FleetPlan(size=1, prefix=f"{fresh_id}-", pace=150, mishaps=Mishaps(0, 0, 600, 0, 0, 0))
    (scooter_id,) = plan.scooter_ids()
    async with listening(broker, plan.prefix) as heard, riding(broker, plan) as fleet:

        def times() -> Counter[str]:
            return Counter(said["id"] for _, said in heard.of(Uplink.EVENTS))

        await becomes(lambda: max(times().values(), default=0) >= 3, "an event sent three times")
        receipted = list(times())
        await heard.receipt(scooter_id, receipted)
        await becomes(lambda: fleet.totals.events_receipted == len(receipted), "the receipts")
        # One message may have been on its way: what comes after the next two left later.
        known = len(heard.of(Uplink.TELEMETRY))
        await becomes(lambda: len(heard.of(Uplink.TELEMETRY)) >= known + 2, "two more reports")
        before = times()
        await becomes(lambda: len(times()) > len(receipted), "another event")
        await becomes(lambda: max((times() - before).values(), default=0) >= 3, "its repetition")

    assert not set(times() - before) & set(receipted)


async def test_a_coverage_loss_ends_in_the_will_of_that_connection_then_a_birth_and_a_batch(
    broker: BrokerAddress, fresh_id: str
) -> None:
    plan = FleetPlan(size=4, prefix=f"{fresh_id}-", pace=20, mishaps=Mishaps(120, 0, 0, 0, 0, 0))
    async with listening(broker, plan.prefix) as heard, riding(broker, plan):
        await becomes(lambda: heard.statuses("lost"), "a will")
        scooter_id, boot, conn = heard.statuses("lost")[0]
        assert (scooter_id, boot, conn) in heard.statuses("online")
        back = (scooter_id, boot, conn + 1)
        await becomes(lambda: back in heard.statuses("online"), "the birth after it")
        await becomes(
            lambda: scooter_id in {each for each, _ in heard.of(Uplink.TELEMETRY_BATCH)},
            "what it could not send",
        )


async def test_a_scooter_that_sleeps_says_so_and_wakes_up_on_a_new_connection(
    broker: BrokerAddress, fresh_id: str
) -> None:
    plan = FleetPlan(size=6, prefix=f"{fresh_id}-", pace=20, mishaps=Mishaps(0, 0, 0, 240, 0, 0))
    async with listening(broker, plan.prefix) as heard, riding(broker, plan):
        await becomes(lambda: heard.statuses("sleeping"), "a goodbye")
        scooter_id, boot, conn = heard.statuses("sleeping")[0]
        back = (scooter_id, boot, conn + 1)
        await becomes(lambda: back in heard.statuses("online"), "the scooter awake")

    assert heard.statuses("lost") == []


async def test_a_stopped_fleet_says_goodbye_and_leaves_no_task(
    broker: BrokerAddress, fresh_id: str
) -> None:
    plan = FleetPlan(size=8, prefix=f"{fresh_id}-", pace=5, mishaps=Mishaps.none())
    before = asyncio.all_tasks()
    async with riding(broker, plan) as fleet:
        await becomes(lambda: fleet.totals.connected == plan.size, "all of them")
    await becomes(lambda: asyncio.all_tasks() <= before, "no task left")

    assert fleet.totals.connected == 0
    async with listening(broker, plan.prefix) as heard:
        await becomes(lambda: len(heard.statuses("offline")) == plan.size, "their goodbyes")


@pytest.mark.parametrize("connected", [0, 1, 8], ids=lambda n: f"when {n} are connected")
async def test_a_cancelled_fleet_disconnects_in_order_and_leaves_no_task(
    broker: BrokerAddress, fresh_id: str, connected: int
) -> None:
    plan = FleetPlan(size=8, prefix=f"{fresh_id}-", pace=5, mishaps=Mishaps.none())
    address, totals, before = Broker(broker.host, broker.port, *LOAD), Totals(), asyncio.all_tasks()
    fleet = asyncio.create_task(run_fleet(plan, address, totals=totals))
    await becomes(lambda: totals.connected >= connected, "enough connections")
    fleet.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(fleet, return_exceptions=True)

    assert fleet.cancelled()
    assert totals.connected == 0
    await becomes(lambda: asyncio.all_tasks() <= before, "no task left")
    async with listening(broker, plan.prefix) as heard:
        await heard.say(plan.scooter_ids()[0], b'{"s":"sleeping","boot":1,"conn":1}')
        await becomes(lambda: heard.statuses("sleeping"), "what was said last")
        assert heard.statuses("lost") == []


async def test_a_fleet_outlives_its_broker_and_loses_no_report_and_no_event(
    own_mosquitto: Servers,
) -> None:
    plan = FleetPlan(size=6, pace=10, mishaps=Mishaps.none())
    confirmed: dict[str, set[int]] = {scooter_id: set() for scooter_id in plan.scooter_ids()}

    def journal(scooter_id: str, message: Message) -> None:
        said = orjson.loads(message.payload)
        numbered = said if isinstance(said, list) else [said]
        confirmed[scooter_id] |= {each["seq"] for each in numbered if "seq" in each}

    async with riding(mosquitto_of(own_mosquitto).address(), plan, journal) as fleet:
        await becomes(lambda: fleet.totals.reports >= 10, "reports")
        own_mosquitto.mosquitto.kill()
        await becomes(lambda: fleet.totals.connected == 0, "everybody cut off")
        own_mosquitto.mosquitto.start()
        await becomes(lambda: fleet.totals.connected == plan.size, "everybody back")

    for numbers in confirmed.values():
        assert numbers == set(range(1, max(numbers) + 1))
