"""The downlink on a real broker: births, wills, and what a publish promises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt
import mqtt5
import pytest

from devices.contract import topics
from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress
from gateway.links.downlink import Downlink
from gateway.local.servers import Servers
from gateway.metrics import Metrics
from tests.accounts import LOAD
from tests.eventually import eventually
from tests.mqtt_session import always
from tests.proxy import Proxy
from tests.scripted_broker import grant_all, scripted_broker
from tests.services import mosquitto_of


@asynccontextmanager
async def running(instance: str, broker: BrokerAddress) -> AsyncIterator[Downlink]:
    downlink = Downlink(instance, broker, Metrics(), may_connect=always)
    task = asyncio.create_task(downlink.run())

    async def connected() -> bool:
        return downlink.connected

    try:
        await eventually(connected, what="the downlink to connect")
        yield downlink
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


@asynccontextmanager
async def listening(broker: BrokerAddress, topic: str) -> AsyncIterator[aiomqtt.Client]:
    """As scooters: the gateway's account may not read what it says."""
    username, password = LOAD
    async with aiomqtt.Client(
        broker.host, broker.port, username=username, password=password
    ) as client:
        await client.subscribe(topic, qos=1)
        yield client


async def payload_of(client: aiomqtt.Client) -> bytes:
    async with asyncio.timeout(10):
        message = await anext(aiter(client.messages))
        assert isinstance(message.payload, bytes)
        return message.payload


async def test_birth_goodbye_and_will(broker: BrokerAddress, fresh_id: str) -> None:
    async with (
        listening(broker, topics.gateway_status(fresh_id)) as listener,
        Proxy(broker.host, broker.port) as proxy,
    ):
        through = BrokerAddress(
            host="127.0.0.1",
            port=proxy.port,
            username=broker.username,
            password=broker.password,
        )
        async with running(fresh_id, through):
            assert await payload_of(listener) == b'{"s":"online"}'
            proxy.cut()
            assert await payload_of(listener) == b'{"s":"lost"}'
            assert await payload_of(listener) == b'{"s":"online"}'
        assert await payload_of(listener) == b'{"s":"offline"}'


async def test_a_publish_reaches_its_topic(broker: BrokerAddress, scooter_id: str) -> None:
    topic = topics.receipts(scooter_id)
    async with (
        listening(broker, topic) as listener,
        running(f"g-{scooter_id}", broker) as downlink,
    ):
        await downlink.publish(topic, b"x", qos=1, expiry_s=30)
        assert await payload_of(listener) == b"x"


async def test_without_a_connection_a_publish_says_so(broker: BrokerAddress) -> None:
    downlink = Downlink("g", broker, Metrics(), may_connect=always)
    with pytest.raises(ServerAway):
        await downlink.publish("t", b"x", qos=1)


async def test_a_downlink_that_is_told_to_leave_comes_back(
    broker: BrokerAddress, fresh_id: str
) -> None:
    async with running(fresh_id, broker) as downlink:
        downlink.leave("the lease was lost")

        async def gone() -> bool:
            return not downlink.connected

        async def there() -> bool:
            return downlink.connected

        await eventually(gone, what="the downlink to leave")
        await eventually(there, what="the downlink to be back")


async def test_it_stops_while_the_broker_is_frozen(own_mosquitto: Servers, fresh_id: str) -> None:
    broker = mosquitto_of(own_mosquitto).address(keepalive_s=2)
    async with running(fresh_id, broker):
        own_mosquitto.mosquitto.pause()
    own_mosquitto.mosquitto.resume()


async def test_no_publish_is_held_back_until_earlier_ones_are_confirmed() -> None:
    """A command was in time when it was handed over: it leaves then or never."""
    heard: list[bytes] = []
    enough = asyncio.Event()

    def answers(packet: mqtt5.Packet) -> list[mqtt5.Packet | bytes]:
        if not isinstance(packet, mqtt5.PublishPacket):
            return grant_all(packet)
        if packet.topic != "t":  # the gateway's birth
            assert packet.packet_id is not None
            return [mqtt5.PubAckPacket(packet.packet_id)]
        heard.append(bytes(packet.payload or b""))
        if len(heard) == 30:
            enough.set()
        return []

    async with scripted_broker(answers) as broker, running("g", broker) as downlink:
        publishing = asyncio.gather(
            *(downlink.publish("t", b"%d" % number, qos=1) for number in range(30)),
            return_exceptions=True,
        )
        async with asyncio.timeout(4):
            await enough.wait()
        publishing.cancel()
    assert heard == [b"%d" % number for number in range(30)]
