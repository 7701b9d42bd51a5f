"""Scooters that report in numbered laps, and scooters that keep events until their receipts."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Final

import orjson

from devices.contract import topics
from devices.contract.topics import Uplink
from tests.load import WINDOW
from tests.wire import Message, Wire, connect, publish_packet, subscribe

_AGAIN_S: Final = 0.2
_CONNECT_S: Final = 5.0


class Fleet:
    """Scooters whose reports are numbered, so that the last one can be told in the state.

    Every one of them reports once a lap; `odo` is the number of the lap, as `seq` is.
    """

    def __init__(self, prefix: str, size: int, *, boot: int = 1) -> None:
        self.ids = [f"{prefix}-{number:05d}" for number in range(size)]
        self._boot = boot
        self._began_ms = time.time_ns() // 1_000_000 - 3_600_000
        self.laps = 0
        """How many each of them has reported, or will have when the load is over."""

    def report(self, index: int, lap: int) -> Message:
        """The report of one scooter in one lap; 55 km around Berlin, silent for an hour at most."""
        body = (
            b'{"ts":%d,"boot":%d,"seq":%d,"ivl":3600,"lat":%.5f,"lon":%.5f,"spd":17.5,'
            b'"batt":%d,"mv":40700,"lock":"unlocked","tip":false,"odo":%d}'
        ) % (
            self._began_ms + lap,
            self._boot,
            lap,
            52.3 + (index * 7919 + lap) % 50_000 / 1e5,
            13.1 + (index * 104_729 + lap) % 50_000 / 1e5,
            100 - lap % 100,
            lap,
        )
        return Message(topics.uplink(self.ids[index], Uplink.TELEMETRY), body)

    def streams(
        self,
        connections: int,
        *,
        laps: int | None = None,
        until: asyncio.Event | None = None,
    ) -> list[Iterator[Message]]:
        """Reports by connection: `laps` of them a scooter, or whole laps until the event is set."""
        first = self.laps + 1
        if laps is not None:
            self.laps += laps
        return [
            self._stream(
                range(number, len(self.ids), connections), first=first, laps=laps, until=until
            )
            for number in range(connections)
        ]

    def _stream(
        self, indexes: range, *, first: int, laps: int | None, until: asyncio.Event | None
    ) -> Iterator[Message]:
        lap = first
        while (laps is None or lap < first + laps) and not (until and until.is_set()):
            for index in indexes:
                yield self.report(index, lap)
            self.laps = max(self.laps, lap)
            lap += 1


class EventSender:
    """Scooters that keep each event until its receipt, over one connection.


    must not need the scooter any more while the broker lives.
    """

    def __init__(self, port: int, *, resend_s: float = 2.0) -> None:
        self._port = port
        self._resend_s = resend_s
        self._numbers = cycle(range(1, 65_536))
        self._due: deque[tuple[float, str, str]] = deque()
        self.unconfirmed: dict[int, tuple[str, str]] = {}
        self.kept: dict[tuple[str, str], bytes] = {}
        """What has no receipt yet, by scooter and event id."""
        self.receipted: dict[tuple[str, str], int] = {}
        """How many receipts each event got."""
        self.published = 0

    def happen(self, scooter_id: str, event_id: str, *, kind: str = "fall") -> None:
        """Something happens to a scooter: it will be told until there is a receipt."""
        self.kept[scooter_id, event_id] = orjson.dumps({"id": event_id, "ev": kind})
        self._due.appendleft((0.0, scooter_id, event_id))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["EventSender"]:
        task = asyncio.create_task(self.run(), name="events")
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Send what is kept, for ever, whatever happens to the broker."""
        while True:
            wire = Wire(self._took, self._heard)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await connect(wire, self._port, f"events-{id(self)}")
                    await subscribe(wire, topics.receipts("+"))
                await self._send_while_connected(wire)
            except (OSError, TimeoutError):
                await asyncio.sleep(_AGAIN_S)
            finally:
                wire.close()

    async def _send_while_connected(self, wire: Wire) -> None:
        for scooter_id, event_id in self.unconfirmed.values():
            self._due.appendleft((0.0, scooter_id, event_id))
        self.unconfirmed.clear()
        while not wire.lost.done():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now and len(self.unconfirmed) < WINDOW:
                _, scooter_id, event_id = self._due.popleft()
                payload = self.kept.get((scooter_id, event_id))
                if payload is None:
                    continue
                number = next(self._numbers)
                self.unconfirmed[number] = (scooter_id, event_id)
                message = Message(topics.uplink(scooter_id, Uplink.EVENTS), payload)
                wire.write(publish_packet(number, message))
                self.published += 1
                self._due.append((now + self._resend_s, scooter_id, event_id))
            await asyncio.sleep(0.01)

    def _took(self, packet_id: int) -> None:
        self.unconfirmed.pop(packet_id, None)

    def _heard(self, topic: str, payload: bytes) -> None:
        scooter_id = topic.split("/")[1]
        for event_id in orjson.loads(payload)["ids"]:
            self.kept.pop((scooter_id, event_id), None)
            told = self.receipted.get((scooter_id, event_id), 0)
            self.receipted[scooter_id, event_id] = told + 1
