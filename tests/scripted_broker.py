"""A broker that says what a test tells it to: for answers that Mosquitto never gives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import mqtt5

from gateway.links.broker import BrokerAddress

Answers = Callable[[mqtt5.Packet], list[mqtt5.Packet | bytes]]


def grant_all(packet: mqtt5.Packet) -> list[mqtt5.Packet | bytes]:
    match packet:
        case mqtt5.ConnectPacket():
            return [mqtt5.ConnAckPacket()]
        case mqtt5.SubscribePacket(packet_id=packet_id, topic_filters=filters):
            granted = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(filters)
            return [mqtt5.SubAckPacket(packet_id, granted)]
        case mqtt5.PingReqPacket():
            return [mqtt5.PingRespPacket()]
    return []


@asynccontextmanager
async def scripted_broker(answers: Answers) -> AsyncIterator[BrokerAddress]:
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        unread = b""
        while read := await reader.read(65536):
            unread += read
            while unread:
                try:
                    packet, size = mqtt5.read(memoryview(unread))
                except IndexError:
                    break
                unread = unread[size:]
                for answer in answers(packet):
                    writer.write(answer if isinstance(answer, bytes) else answer.write())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield BrokerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
