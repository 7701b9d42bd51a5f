"""One MQTT connection to the administration listener: whether it was let in, and how it ended."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import mqtt5

from broker.admission import BrokerAway

_PacketT = TypeVar("_PacketT", bound=mqtt5.Packet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where client ids are free; `tls` None means plain, on loopback or an internal network."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who connects, and as which client."""

    name: str
    secret: str = field(repr=False)
    client_id: str


class Connection:
    """A clean session that the broker forgets when it ends."""

    def __init__(self, reader: asyncio.StreamReader, *, accepted: bool, unread: bytearray) -> None:
        self.accepted = accepted
        self._reader = reader
        self._unread = unread

    async def ended(self, within_s: float) -> bool:
        """Whether the broker ended it in this time; 2.0.11 does so without a word."""
        try:
            async with asyncio.timeout(within_s):
                await _next(self._reader, self._unread, mqtt5.DisconnectPacket)
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


@asynccontextmanager
async def connected(
    listener: Listener, login: Login, *, within_s: float
) -> AsyncIterator[Connection]:
    """Log in, taking over who has this client id; raises BrokerAway without an answer in time."""
    unread = bytearray()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(
                listener.host, listener.port, ssl=listener.tls
            )
            writer.write(_connect_packet(login))
            answer = await _next(reader, unread, mqtt5.ConnAckPacket)
        accepted = answer.reason_code is mqtt5.ConnAckReasonCode.SUCCESS
        yield Connection(reader, accepted=accepted, unread=unread)
        writer.write(mqtt5.DisconnectPacket().write())
    except TimeoutError:
        raise _away(listener, f"no answer in {within_s:.0f} s") from None
    except OSError as error:
        raise _away(listener, error.strerror or str(error)) from error
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _next(
    reader: asyncio.StreamReader, unread: bytearray, wanted: type[_PacketT]
) -> _PacketT:
    """The next packet of this kind; ConnectionError when the broker closes before it."""
    while True:
        with suppress(IndexError):  # the rest of the packet is on its way
            packet, size = mqtt5.read(memoryview(bytes(unread)))
            del unread[:size]
            if isinstance(packet, wanted):
                return packet
            continue
        received = await reader.read(4096)
        if not received:
            raise ConnectionError("it closed the connection")
        unread += received


def _connect_packet(login: Login) -> bytes:
    return mqtt5.ConnectPacket(
        login.client_id,
        username=login.name,
        password=login.secret.encode(),
        clean_start=True,
        session_expiry_interval=0,
        keep_alive=60,
    ).write()


def _away(listener: Listener, reason: str) -> BrokerAway:
    return BrokerAway(
        f"The broker on {listener.host}:{listener.port} does not answer ({reason}): "
        "start it, or check that address."
    )
