"""A TCP proxy between a client and a server, to cut, swallow and slice what passes."""

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """Listens on a free loopback port, `port`, and forwards to `host`:`to_port`.

    `swallow` drops every byte in both directions while connections stay open; `slice_size`
    passes what the server sends on in pieces of that many bytes.
    """

    def __init__(self, host: str, to_port: int, *, slice_size: int | None = None) -> None:
        self._host = host
        self._to_port = to_port
        self._slice_size = slice_size
        self._pairs: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.swallow = False
        self.connections = 0
        self.port = 0
        self.sent = bytearray()
        """What clients sent, all connections together."""

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
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, as a cable does."""
        for writer in self._pairs:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._pairs |= {writer, server_writer}
        for coroutine in (
            self._pass(reader, server_writer, is_up=True),
            self._pass(server_reader, writer, is_up=False),
        ):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool
    ) -> None:
        try:
            while read := await reader.read(65536):
                if self.swallow:
                    continue
                if is_up:
                    self.sent += read
                size = len(read) if is_up or not self._slice_size else self._slice_size
                for start in range(0, len(read), size):
                    writer.write(read[start : start + size])
                    await writer.drain()
                    if size < len(read):
                        await asyncio.sleep(0)
        except OSError:
            pass
        finally:
            writer.transport.abort()
