"""The shipped access list on a real broker. A subscription is always granted: deliveries count."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiomqtt import Client, MqttError, ProtocolVersion

from tests.services import MosquittoService

UPLINKS = ["telemetry", "telemetry_batch", "events", "status", "acks"]
DOWNLINKS = ["commands", "receipts"]


def gateway(mosquitto: MosquittoService) -> Client:
    return Client(
        mosquitto.host,
        mosquitto.port,
        username=mosquitto.username,
        password=mosquitto.password,
        protocol=ProtocolVersion.V5,
    )


def anybody(mosquitto: MosquittoService) -> Client:
    return Client(mosquitto.host, mosquitto.port, protocol=ProtocolVersion.V311)


@asynccontextmanager
async def listening(client: Client, *topics: str) -> AsyncIterator[Client]:
    async with client:
        for topic in topics:
            await client.subscribe(topic, qos=1)
        yield client


async def next_topic(client: Client) -> str:
    return str((await anext(client.messages)).topic)


@pytest.mark.parametrize("leaf", UPLINKS)
async def test_what_a_scooter_says_reaches_the_gateway(
    mosquitto: MosquittoService, scooter_id: str, leaf: str
) -> None:
    topic = f"scooters/{scooter_id}/{leaf}"
    async with listening(gateway(mosquitto), topic) as receiver, anybody(mosquitto) as scooter:
        await scooter.publish(topic, b"{}", qos=1)

        assert await next_topic(receiver) == topic


@pytest.mark.parametrize("leaf", DOWNLINKS)
async def test_what_the_gateway_says_reaches_the_scooter(
    mosquitto: MosquittoService, scooter_id: str, leaf: str
) -> None:
    topic = f"scooters/{scooter_id}/{leaf}"
    async with listening(anybody(mosquitto), topic) as scooter, gateway(mosquitto) as sender:
        await sender.publish(topic, b"{}", qos=1)

        assert await next_topic(scooter) == topic


@pytest.mark.parametrize("leaf", ["commands", "receipts", "anything"])
async def test_nobody_but_the_gateway_may_command_a_scooter(
    mosquitto: MosquittoService, scooter_id: str, leaf: str
) -> None:
    every = f"scooters/{scooter_id}/+"
    async with (
        listening(anybody(mosquitto), every) as scooter,
        anybody(mosquitto) as intruder,
        gateway(mosquitto) as sender,
    ):
        await intruder.publish(f"scooters/{scooter_id}/{leaf}", b"forged", qos=1)
        await sender.publish(f"scooters/{scooter_id}/commands", b"real", qos=1)

        assert (await anext(scooter.messages)).payload == b"real"


async def test_nobody_but_the_gateway_hears_where_scooters_are(
    mosquitto: MosquittoService, scooter_id: str
) -> None:
    async with (
        listening(anybody(mosquitto), "#", f"scooters/{scooter_id}/#") as listener,
        anybody(mosquitto) as scooter,
        gateway(mosquitto) as sender,
    ):
        for leaf in UPLINKS:
            await scooter.publish(f"scooters/{scooter_id}/{leaf}", b"{}", qos=1)
        await sender.publish(f"scooters/{scooter_id}/receipts", b"{}", qos=1)

        while (topic := await next_topic(listener)).split("/")[1] != scooter_id:
            pass  # other tests' downlinks, which a scooter may read
        assert topic == f"scooters/{scooter_id}/receipts"


@pytest.mark.parametrize("leaf", ["telemetry", "telemetry_batch", "events", "acks"])
async def test_the_gateway_cannot_forge_what_a_scooter_says(
    mosquitto: MosquittoService, scooter_id: str, leaf: str
) -> None:
    async with (
        listening(gateway(mosquitto), f"scooters/{scooter_id}/#") as receiver,
        gateway(mosquitto) as forger,
        anybody(mosquitto) as scooter,
    ):
        await forger.publish(f"scooters/{scooter_id}/{leaf}", b"forged", qos=1)
        await scooter.publish(f"scooters/{scooter_id}/{leaf}", b"real", qos=1)

        assert (await anext(receiver.messages)).payload == b"real"


async def test_the_gateway_can_clear_a_retained_status(
    mosquitto: MosquittoService, scooter_id: str
) -> None:
    topic = f"scooters/{scooter_id}/status"
    async with anybody(mosquitto) as scooter, gateway(mosquitto) as sender:
        await scooter.publish(topic, b'{"s":"online"}', qos=1, retain=True)
        await sender.publish(topic, b"", qos=1, retain=True)
    async with listening(gateway(mosquitto), topic) as receiver, anybody(mosquitto) as scooter:
        await scooter.publish(topic, b"live", qos=1)

        message = await anext(receiver.messages)
        assert (message.payload, message.retain) == (b"live", False)


async def test_everybody_hears_whether_a_gateway_is_there(
    mosquitto: MosquittoService, fresh_id: str
) -> None:
    topic = f"gateway/{fresh_id}/status"
    async with listening(anybody(mosquitto), topic) as scooter, gateway(mosquitto) as sender:
        await sender.publish(f"gateway/{fresh_id}/echo", b"{}", qos=1)
        await sender.publish(topic, b"{}", qos=1)

        assert await next_topic(scooter) == topic


async def test_the_gateway_hears_what_the_broker_dropped(mosquitto: MosquittoService) -> None:
    topic = "$SYS/broker/publish/messages/dropped"
    async with listening(gateway(mosquitto), topic) as receiver:
        assert await next_topic(receiver) == topic


async def test_a_wrong_password_is_refused(mosquitto: MosquittoService) -> None:
    client = Client(mosquitto.host, mosquitto.port, username="gateway", password="guessed")  # noqa: S106
    with pytest.raises(MqttError):
        async with client:
            pass


async def test_a_message_larger_than_the_contract_allows_ends_its_connection(
    mosquitto: MosquittoService, scooter_id: str
) -> None:
    topic = f"scooters/{scooter_id}/telemetry_batch"
    async with listening(gateway(mosquitto), topic) as receiver:
        async with anybody(mosquitto) as scooter:
            await scooter.publish(topic, b"x" * 8_192, qos=1)
            await scooter.publish(topic, b"x" * 20_000)
            with pytest.raises(MqttError, match="Disconnected"):
                await anext(scooter.messages)

        message = await anext(receiver.messages)
        assert message.payload == b"x" * 8_192
