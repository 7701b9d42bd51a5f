"""One MQTT 5 connection of many scooters, as thin as a load needs it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

import mqtt5

from tests.accounts import LOAD, Login


class Message(NamedTuple):
    """What one scooter says once."""

    topic: str
    payload: bytes
    retain: bool = False


class Wire(asyncio.Protocol):
    """One MQTT 5 connection: packets out, PUBACKs and messages in, nothing else."""

    def __init__(self, took: Callable[[int], None], heard: Callable[[str, bytes], None]) -> None:
        self._took = took
        self._heard = heard
        self._unread = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        at = 0
        try:
            while at < len(self._unread):
                packet, size = mqtt5.read(memoryview(self._unread)[at:])
                at += size
                self._receive(packet)
        except IndexError:
            pass  # the rest of the packet is on its way
        self._unread = self._unread[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def write(self, packets: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packets)

    def close(self) -> None:
        self.write(mqtt5.DisconnectPacket().write())
        if self._transport is not None:
            self._transport.close()

    def _receive(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                self._took(packet.packet_id)
            case mqtt5.PublishPacket():
                self._heard(packet.topic, packet.payload or b"")
            case mqtt5.ConnAckPacket() if not self.accepted.done():
                if packet.reason_code == mqtt5.ConnAckReasonCode.SUCCESS:
                    self.accepted.set_result(None)
            case mqtt5.SubAckPacket() if not self.subscribed.done():
                self.subscribed.set_result(None)


def publish_packet(packet_id: int, message: Message) -> bytes:
    return mqtt5.PublishPacket(
        message.topic,
        message.payload,
        qos=mqtt5.QoS.AT_LEAST_ONCE,
        retain=message.retain,
        packet_id=packet_id,
    ).write()


async def connect(wire: Wire, port: int, client_id: str, *, login: Login = LOAD) -> None:
    """A clean session; raises OSError, also when the broker refuses the login."""
    await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", port)
    packet = mqtt5.ConnectPacket(
        client_id,
        username=login.username,
        password=login.password.encode(),
        clean_start=True,
        keep_alive=0,
    )
    wire.write(packet.write())
    await asyncio.wait({wire.accepted, wire.lost}, return_when=asyncio.FIRST_COMPLETED)
    if not wire.accepted.done():
        raise ConnectionError("the broker refused a publisher")


async def subscribe(wire: Wire, pattern: str) -> None:
    filters = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_MOST_ONCE)]
    wire.write(mqtt5.SubscribePacket(1, filters).write())
    await asyncio.wait({wire.subscribed, wire.lost}, return_when=asyncio.FIRST_COMPLETED)
    if not wire.subscribed.done():
        raise ConnectionError("the broker left a subscriber")
