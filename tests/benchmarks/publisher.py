"""A publisher that is not the bottleneck: everything encoded first, several connections.

Run as `python -m tests.benchmarks.publisher`: a plan as one line of JSON on standard input, then
`ready` comes back, then any line starts it, then one line of JSON says what was done.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Sequence
from typing import cast

import uvloop

from tests.benchmarks.load import Load, connect_packet, packets

WINDOW = 256
"""Reports of one connection that the broker has not acknowledged yet, at most."""

_CONNACK_SIZE = _PUBACK_SIZE = 4


class Connection(asyncio.Protocol):
    """One MQTT 3.1.1 connection; every answer to it is four bytes long, so they are counted."""

    def __init__(self, client_id: str, queue: Sequence[bytes]) -> None:
        self._client_id = client_id
        self._queue = queue
        self._received = 0
        self._allowed = 0
        self._sent = 0
        self._transport: asyncio.WriteTransport | None = None
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.write(connect_packet(self._client_id))

    def data_received(self, data: bytes) -> None:
        if self._received < _CONNACK_SIZE and data[:4] != b"\x20\x02\x00\x00":
            self.accepted.set_exception(ConnectionError("the broker refused a publisher"))
            return
        self._received += len(data)
        if not self.accepted.done():
            self.accepted.set_result(None)
        if self.acknowledged == len(self._queue) and not self.done.done():
            self.done.set_result(None)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.accepted, self.done):
            if not future.done():
                future.set_exception(ConnectionError(f"the broker left a publisher: {exc}"))

    @property
    def acknowledged(self) -> int:
        return (self._received - _CONNACK_SIZE) // _PUBACK_SIZE

    def allow(self, count: int) -> None:
        """Let the first `count` of the queue go out, as the window permits."""
        self._allowed = min(count, len(self._queue))
        self._send()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.write(b"\xe0\x00")
            self._transport.close()

    def _send(self) -> None:
        until = min(self._allowed, self.acknowledged + WINDOW)
        # Small pieces would cost more system calls than the load itself.
        piece = until - self._sent
        # Small pieces would cost more system calls than the load itself.
        if self._transport and piece > 0 and (piece >= WINDOW // 4 or until == self._allowed):
            self._transport.write(b"".join(self._queue[self._sent : until]))
            self._sent = until


async def publish(load: Load, *, host: str, port: int, ca_file: str | None) -> float:
    """Publish the load when a line comes on standard input; returns the seconds it took."""
    tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
    loop = asyncio.get_running_loop()
    connections = []
    for number in range(load.connections):
        queue = packets(load, number)
        connection = Connection(f"{load.prefix}-publisher-{number}", queue)
        await loop.create_connection(lambda made=connection: made, host, port, ssl=tls)
        await connection.accepted
        connections.append(connection)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    began = time.perf_counter()
    pacing = asyncio.create_task(_pace(connections, load))
    await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - began
    await pacing
    for connection in connections:
        connection.close()
    return seconds


async def _pace(connections: list[Connection], load: Load) -> None:
    began = time.perf_counter()
    share = load.messages // len(connections) + 1
    while load.rate is not None:
        allowed = int((time.perf_counter() - began) * load.rate / len(connections))
        for connection in connections:
            connection.allow(allowed)
        if allowed >= share:
            return
        await asyncio.sleep(0.002)
    for connection in connections:
        connection.allow(share)


if __name__ == "__main__":
    plan = json.loads(sys.stdin.readline())
    load = Load(**plan.pop("load"))
    spent_s = uvloop.run(publish(load, **plan))
    sys.stdout.write(json.dumps({"messages": load.messages, "seconds": spent_s}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()  # its CPU is asked for before it ends
