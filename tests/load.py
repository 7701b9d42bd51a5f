"""QoS 1 publishers that keep each message until its PUBACK, through any fault of the broker."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, Final

from tests.wire import Message, Wire, connect, publish_packet

WINDOW: Final = 256
"""Messages of one connection that the broker has not confirmed yet; it allows 1000."""

_AGAIN_S: Final = 0.2
_CONNECT_S: Final = 5.0


class Publisher:
    """One connection that publishes `messages` in order and again after each reconnect.

    A message counts as acknowledged at its PUBACK. `rate` is messages a second; None is as fast as
    the broker takes them.
    """

    def __init__(
        self, port: int, client_id: str, messages: Iterable[Message], *, rate: float | None = None
    ) -> None:
        self._port = port
        self._client_id = client_id
        self._messages: Iterator[Message] = iter(messages)
        self._rate = rate
        self._unacked: dict[int, Message] = {}
        self._packet_ids = cycle(range(1, 65_536))
        self._moved = asyncio.Event()
        self.sent = 0
        self.acknowledged = 0
        self.connects = 0

    async def run(self) -> None:
        """Return when every message is acknowledged; a broker that is away is waited for."""
        while True:
            if await self._over_one_connection():
                return
            await asyncio.sleep(_AGAIN_S)

    async def _over_one_connection(self) -> bool:
        """Whether everything is acknowledged."""
        wire = Wire(self._took, lambda _topic, _payload: None)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connect(wire, self._port, self._client_id)
        except (OSError, TimeoutError):
            wire.close()
            return False
        self.connects += 1
        try:
            return await self._publish(wire)
        finally:
            wire.close()

    async def _publish(self, wire: Wire) -> bool:
        wire.write(b"".join(publish_packet(number, each) for number, each in self._unacked.items()))
        paced_from, paced = time.monotonic(), 0
        while not wire.lost.done():
            self._moved.clear()
            room = WINDOW - len(self._unacked)
            if self._rate is not None:
                room = min(room, int((time.monotonic() - paced_from) * self._rate) - paced)
            count, ended = self._send(wire, room)
            paced += count
            if ended and not self._unacked:
                return True
            if ended or self._rate is None:
                await _either(wire.lost, self._moved)
            else:
                await asyncio.sleep(0.005)
        return False

    def _send(self, wire: Wire, most: int) -> tuple[int, bool]:
        """Sends up to `most`; returns how many, and whether there are no more."""
        packets: list[bytes] = []
        ended = False
        while len(packets) < most and not ended:
            message = next(self._messages, None)
            if message is None:
                ended = True
            else:
                number = next(self._packet_ids)
                self._unacked[number] = message
                packets.append(publish_packet(number, message))
        wire.write(b"".join(packets))
        self.sent += len(packets)
        return len(packets), ended

    def _took(self, packet_id: int) -> None:
        if self._unacked.pop(packet_id, None) is not None:
            self.acknowledged += 1
            self._moved.set()


class Load:
    """Messages over several connections, each with a stream of its own and in its order."""

    def __init__(
        self,
        port: int,
        streams: Sequence[Iterable[Message]],
        *,
        rate: float | None = None,
        name: str = "load",
    ) -> None:
        share = rate / len(streams) if rate is not None else None
        self._publishers = [
            Publisher(port, f"{name}-{number}", stream, rate=share)
            for number, stream in enumerate(streams)
        ]

    @property
    def acknowledged(self) -> int:
        return sum(publisher.acknowledged for publisher in self._publishers)

    @property
    def connects(self) -> int:
        return sum(publisher.connects for publisher in self._publishers)

    async def run(self, *, within_s: float) -> None:
        """Raises TimeoutError when not everything is acknowledged in time."""
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
            for publisher in self._publishers:
                group.create_task(publisher.run())


async def publish(port: int, *messages: Message, name: str = "once") -> None:
    """Publish a few messages at QoS 1, in order, and return when the broker has them all."""
    await Load(port, [messages], name=name).run(within_s=30.0)


async def _either(lost: asyncio.Future[None], moved: asyncio.Event) -> None:
    moving = asyncio.ensure_future(moved.wait())
    both: set[asyncio.Future[Any]] = {lost, moving}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        moving.cancel()
