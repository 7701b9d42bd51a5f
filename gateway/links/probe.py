"""A short MQTT 5 connection that asks one thing after the other: the doctor, and to forget."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final, TypeVar

import mqtt5

from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress

Answer = TypeVar("Answer", mqtt5.ConnAckPacket, mqtt5.SubAckPacket, mqtt5.PubAckPacket)

TIMEOUT_S: Final = 5.0


class LoginRefused(ServerAway):
    """The broker is there and does not let this login in."""

    def __init__(self, reason: str) -> None:
        super().__init__("broker", f"it refuses the login: {reason}")


class Probe:
    """One connection; use `open_probe`. What arrives meanwhile is kept in `deliveries`.

    Methods raise ServerAway when the broker ends the connection or says nothing for TIMEOUT_S.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = b""
        self.deliveries: list[mqtt5.PublishPacket] = []

    async def connect(
        self, broker: BrokerAddress, client_id: str, *, clean_start: bool, session_expiry_s: int
    ) -> mqtt5.ConnAckPacket:
        """Raises LoginRefused with the broker's reason when it refuses."""
        packet = mqtt5.ConnectPacket(
            client_id,
            username=broker.username,
            password=broker.password.encode() if broker.password is not None else None,
            clean_start=clean_start,
            keep_alive=60,
            session_expiry_interval=session_expiry_s,
        )
        connack = await self._ask(packet.write(), mqtt5.ConnAckPacket)
        if connack.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise LoginRefused(connack.reason_code.name)
        return connack

    @property
    def certificate_ends_at(self) -> datetime | None:
        """When the broker's certificate expires; None without TLS or where it was not verified."""
        certificate = self._writer.get_extra_info("peercert") or {}
        ends = certificate.get("notAfter")
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if ends else None

    async def subscribe(self, *patterns: str) -> list[str]:
        """Returns the patterns that were refused."""
        filters = [
            mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for pattern in patterns
        ]
        suback = await self._ask(mqtt5.SubscribePacket(1, filters).write(), mqtt5.SubAckPacket)
        granted = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
        codes = zip(patterns, suback.reason_codes, strict=True)
        return [pattern for pattern, code in codes if code != granted]

    async def publish(
        self, topic: str, payload: bytes, *, packet_id: int = 1, retain: bool = False
    ) -> bool:
        """At QoS 1; whether the broker took it."""
        packet = _publish(topic, payload, packet_id, retain=retain)
        puback = await self._ask(packet, mqtt5.PubAckPacket)
        codes = mqtt5.PubAckReasonCode
        good = [codes.SUCCESS, codes.NO_MATCHING_SUBSCRIBERS]  # the codec's enums have no hash
        return puback.reason_code in good

    async def publish_many(self, topic: str, payloads: Sequence[bytes], *, at_once: int) -> None:
        """At QoS 1, with at most `at_once` of them unacknowledged (MQTT 5 §4.9)."""
        for start in range(0, len(payloads), at_once):
            chunk = payloads[start : start + at_once]
            self._writer.write(
                b"".join(_publish(topic, each, number) for number, each in enumerate(chunk, 1))
            )
            for _ in chunk:
                await self._answer(mqtt5.PubAckPacket)

    async def receive(self, count: int, *, within_s: float) -> None:
        """Read until there are `count` deliveries or the time is over."""
        try:
            async with asyncio.timeout(within_s):
                while len(self.deliveries) < count:
                    self._keep(await self._read())
        except TimeoutError:
            return

    def leave(self, *, session_expiry_s: int | None = None) -> None:
        """Say goodbye; with 0 the broker forgets the session at once."""
        packet = mqtt5.DisconnectPacket(session_expiry_interval=session_expiry_s)
        self._writer.write(packet.write())

    async def closed(self) -> None:
        """Wait, not for long, until the broker has read the goodbye and closed."""
        try:
            async with asyncio.timeout(1.0):
                while await self._reader.read(65536):
                    pass
        except OSError:
            return

    async def _ask(self, packet: bytes, answer: type[Answer]) -> Answer:
        self._writer.write(packet)
        return await self._answer(answer)

    async def _answer(self, answer: type[Answer]) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    packet = await self._read()
                    if isinstance(packet, answer):
                        return packet
                    self._keep(packet)
        except TimeoutError:
            raise ServerAway("broker", f"it says nothing for {TIMEOUT_S:.0f} s") from None

    def _keep(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PublishPacket):
            self.deliveries.append(packet)
            if packet.packet_id is not None:
                self._writer.write(mqtt5.PubAckPacket(packet.packet_id).write())
        elif isinstance(packet, mqtt5.DisconnectPacket):
            raise ServerAway("broker", f"it ended the connection: {packet.reason_code.name}")

    async def _read(self) -> mqtt5.Packet:
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._unread))
            except IndexError:  # incomplete
                if not (more := await self._reader.read(65536)):
                    raise ServerAway("broker", "it closed the connection") from None
                self._unread += more
            except ValueError as error:
                raise ServerAway("broker", f"it does not speak MQTT 5: {error}") from error
            else:
                self._unread = self._unread[size:]
                return packet


@asynccontextmanager
async def open_probe(broker: BrokerAddress) -> AsyncGenerator[Probe, None]:
    """A TCP or TLS connection; raises ServerAway when there is none."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                broker.host,
                broker.port,
                ssl=broker.tls,
                server_hostname=broker.server_name if broker.tls else None,
            )
    except OSError as error:  # TimeoutError and what TLS says too
        raise ServerAway("broker", str(error) or type(error).__name__) from error
    try:
        yield Probe(reader, writer)
    except OSError as error:
        raise ServerAway("broker", str(error) or type(error).__name__) from error
    finally:
        writer.close()
        with suppress(OSError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


def _publish(topic: str, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    return mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS.AT_LEAST_ONCE,
        packet_id=packet_id,
        retain=retain,
        message_expiry_interval=60,
    ).write()
