"""Many scooters that obey over one connection."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from devices.contract import topics
from devices.contract.topics import Uplink
from tests.e2e.scooter import Scooter
from tests.load import WINDOW
from tests.wire import Message, Wire, connect, publish_packet, subscribe


class Squad:
    """`scooters` by id; each has one birth and one report to say when it comes `online`.

    `commanded` is told of each command, and to whom, before it is obeyed.
    """

    def __init__(
        self, scooters: Iterable[Scooter], *, commanded: Callable[[str], None] | None = None
    ) -> None:
        self.scooters = {each.scooter_id: each for each in scooters}
        self._commanded = commanded
        self._wire = Wire(self._took, self._heard)
        self._waiting: deque[Message] = deque()
        self._in_flight: set[int] = set()
        self._numbers = itertools.cycle(range(1, 65_536))
        self._quiet = asyncio.Event()

    @asynccontextmanager
    async def online(self, port: int) -> AsyncIterator["Squad"]:
        """The broker has every birth when the block begins."""
        await connect(self._wire, port, f"squad-{id(self)}")
        try:
            await subscribe(self._wire, topics.commands("+"))
            for each in self.scooters.values():
                each.born()
                each.report()
                self._collect(each)
            await self.quiet()
            yield self
            assert not self._wire.lost.done(), "the broker left"
        finally:
            self._wire.close()

    async def forgotten(self, port: int) -> None:
        """The broker keeps no status of any, for whoever subscribes next."""
        self._wire = Wire(self._took, self._heard)
        await connect(self._wire, port, f"squad-{id(self)}")
        for each in self.scooters:
            self._waiting.append(Message(topics.uplink(each, Uplink.STATUS), b"", retain=True))
        await self.quiet()
        self._wire.close()

    async def quiet(self) -> None:
        """Until the broker has everything that was said."""
        self._flush()
        await self._quiet.wait()

    def _heard(self, topic: str, payload: bytes) -> None:
        scooter = self.scooters[topic.split("/")[1]]
        if self._commanded is not None:
            self._commanded(scooter.scooter_id)
        scooter.hear(payload, retained=False)
        self._collect(scooter)
        self._flush()

    def _collect(self, scooter: Scooter) -> None:
        while scooter.outbox:
            kind, payload = scooter.outbox.popleft()
            topic = topics.uplink(scooter.scooter_id, kind)
            self._waiting.append(Message(topic, payload, retain=kind is Uplink.STATUS))

    def _took(self, packet_id: int) -> None:
        self._in_flight.discard(packet_id)
        self._flush()

    def _flush(self) -> None:
        packets = []
        while self._waiting and len(self._in_flight) < WINDOW:
            number = next(self._numbers)
            self._in_flight.add(number)
            packets.append(publish_packet(number, self._waiting.popleft()))
        self._wire.write(b"".join(packets))
        if self._in_flight:
            self._quiet.clear()
        else:
            self._quiet.set()
