"""What a firmware engineer reads in the devices README works at a real gateway, as it stands."""

import asyncio

import aiomqtt
import orjson

from devices.contract import topics
from devices.contract.topics import Uplink
from tests.accounts import LOAD
from tests.e2e.system import System
from tests.eventually import eventually
from tests.examples import examples
from tests.load import publish
from tests.wire import Message

OUTCOMES = {
    Uplink.TELEMETRY: "applied",
    Uplink.TELEMETRY_BATCH: "applied",
    Uplink.EVENTS: "event",
    Uplink.STATUS: "presence",
}


def _uplinks() -> list[tuple[Uplink, bytes]]:
    """What a scooter says of its own accord; an ack is the answer to a command, which is needed."""
    found: list[tuple[Uplink, bytes]] = []
    for topic, payload in examples():
        source = topics.parse_uplink(topic)
        if source is not None and source.uplink is not Uplink.ACKS:
            found.append((source.uplink, payload))
    return found


async def test_every_example_payload_ends_in_its_outcome_and_none_is_a_reject(
    system: System,
) -> None:
    await system.register(*(f"README-{number:03d}" for number in range(len(_uplinks()))))
    gateway = await (await system.gateway()).ready()
    expected = dict.fromkeys(OUTCOMES.values(), 0)
    for number, (uplink, payload) in enumerate(_uplinks()):
        expected[OUTCOMES[uplink]] += 1
        message = Message(
            topics.uplink(f"README-{number:03d}", uplink), payload, uplink is Uplink.STATUS
        )
        await publish(system.mqtt_port, message)

        async def counted(expected: dict[str, int] = expected) -> bool:
            page = await gateway.page()
            return page is not None and all(
                page.outcome(name) == count for name, count in expected.items()
            )

        await eventually(counted, what=f"the outcome of {payload!r}")
    page = await gateway.balanced()
    assert page.outcome("rejected") == 0
    assert min(expected[name] for name in ("applied", "event", "presence")) > 0
    await system.clean()
    assert await system.ask("SELECT * FROM rejects") == []


async def test_the_examples_of_one_scooter_in_their_order_leave_no_reject(system: System) -> None:
    await system.register("SC-0001")
    gateway = await (await system.gateway()).ready()
    messages = [
        Message(topics.uplink("SC-0001", uplink), payload, uplink is Uplink.STATUS)
        for uplink, payload in _uplinks()
    ]
    await publish(system.mqtt_port, *messages)

    async def settled() -> bool:
        page = await gateway.page()
        return page is not None and page.settled == len(messages)

    await eventually(settled, what="every example settled")
    await system.clean()
    assert await system.ask("SELECT * FROM rejects") == []
    (state,) = await system.states(["SC-0001"])
    assert state["presence"]


async def test_each_version_of_mqtt_may_report(system: System) -> None:
    await system.register(*(f"SC-MQTT-{protocol}" for protocol in aiomqtt.ProtocolVersion))
    await (await system.gateway()).ready()
    for protocol in aiomqtt.ProtocolVersion:
        scooter_id = f"SC-MQTT-{protocol}"
        client = aiomqtt.Client(
            "127.0.0.1",
            system.mqtt_port,
            username=LOAD.username,
            password=LOAD.password,
            identifier=scooter_id,
            protocol=protocol,
        )
        async with asyncio.timeout(20), client:
            await client.subscribe(topics.receipts(scooter_id))
            await client.publish(f"scooters/{scooter_id}/telemetry", b'{"batt":55}', qos=1)
            event = b'{"id":"1-1","ev":"fall"}'
            await client.publish(f"scooters/{scooter_id}/events", event, qos=1)
            receipt = await anext(aiter(client.messages))
        assert orjson.loads(bytes(receipt.payload)) == {"ids": ["1-1"]}

        async def reported(scooter_id: str = scooter_id) -> bool:
            (state,) = await system.states([scooter_id])
            return state.get("battery_percent") == "55"

        await eventually(reported, what=f"the report over {protocol}")
