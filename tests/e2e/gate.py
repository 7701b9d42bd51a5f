"""A proxy before the broker that reads MQTT 5 and can hold a packet, and all behind it."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import mqtt5

Matches = Callable[[str, bool, mqtt5.Packet], bool]
"""Whether to hold a packet: client id, whether it goes up to the broker, and the packet."""

_READ: Final = 65536


class Gate:
    """Listens on `port` and forwards to the broker, packet by packet.

    What is held is never forwarded if its sender ends meanwhile, as if it had ended before.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._matches: Matches | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._released = asyncio.Event()
        self.reached = asyncio.Event()
        self.port = 0

    def hold(self, matches: Matches) -> None:
        """From now on; `reached` tells when there was such a packet."""
        self._matches = matches
        self.reached.clear()
        self._released.clear()

    def release(self) -> None:
        """Let everything through again, what is held first."""
        self._matches = None
        self._released.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        client_id = [""]
        for coroutine in (
            self._pass(reader, up_writer, client_id, is_up=True),
            self._pass(up_reader, writer, client_id, is_up=False),
        ):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client_id: list[str],
        *,
        is_up: bool,
    ) -> None:
        unread = bytearray()
        try:
            while read := await reader.read(_READ):
                unread += read
                while found := _first(unread):
                    packet, size = found
                    if isinstance(packet, mqtt5.ConnectPacket):
                        client_id[0] = packet.client_id or ""
                    if self._matches is not None and self._matches(client_id[0], is_up, packet):
                        self.reached.set()
                        if not await self._wait(reader, unread):
                            return
                    writer.write(bytes(unread[:size]))
                    del unread[:size]
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _wait(self, reader: asyncio.StreamReader, unread: bytearray) -> bool:
        """Until released; False when the sender is gone first."""
        released = asyncio.ensure_future(self._released.wait())
        reading = asyncio.ensure_future(reader.read(_READ))
        try:
            while not released.done():
                await asyncio.wait({released, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    if not (read := reading.result()):
                        return False
                    unread += read
                    reading = asyncio.ensure_future(reader.read(_READ))
        finally:
            released.cancel()
            reading.cancel()
            await asyncio.wait({reading})  # two at once may not read
            if not reading.cancelled() and reading.exception() is None:
                unread += reading.result()
        return True


def _first(unread: bytearray) -> tuple[mqtt5.Packet, int] | None:
    """The first packet and its size; None while the rest of it is on its way."""
    try:
        return mqtt5.read(memoryview(bytes(unread)))
    except IndexError:
        return None
