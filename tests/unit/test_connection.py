"""A connection that rests: when the next read is, by what the last one brought."""

import asyncio

import mqtt5

from gateway.links.connection import Connection
from gateway.links.delivery import Outcome
from gateway.links.holding import Holding
from gateway.metrics import Metrics
from tests.eventually import eventually


class Pipe(asyncio.Transport):
    """A transport whose reading is paused and resumed; bytes come in by `bring`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._reads = True
        connection.connection_made(self)

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True

    def bring(self, reports: int) -> None:
        """One read of so many reports, 1 KiB each."""
        packet = mqtt5.PublishPacket("scooters/SC-0001/telemetry", b"x" * 1024).write()
        came = packet * reports
        self._connection.get_buffer(len(came))[: len(came)] = came
        self._connection.buffer_updated(len(came))


def resting(rest_s: float) -> Connection:
    return Connection(Holding(Metrics()), held_max=8192, arrived=lambda: None, rest_s=rest_s)


async def test_after_a_small_read_it_rests_for_its_time_and_reads_again() -> None:
    pipe = Pipe(resting(0.05))

    pipe.bring(1)
    assert not pipe.is_reading()

    async def reads() -> bool:
        return pipe.is_reading()

    await eventually(reads, what="the next read")


async def test_after_a_large_read_it_reads_on_at_once() -> None:
    pipe = Pipe(resting(60.0))

    pipe.bring(40)

    assert pipe.is_reading()


async def test_without_a_rest_it_always_reads_on() -> None:
    pipe = Pipe(resting(0.0))

    pipe.bring(1)

    assert pipe.is_reading()


async def test_a_rest_ends_no_pause_at_the_bound() -> None:
    connection = Connection(Holding(Metrics()), held_max=256, arrived=lambda: None, rest_s=0.01)
    pipe = Pipe(connection)
    for _ in range(32):
        pipe.bring(10)
    assert connection.is_paused

    await asyncio.sleep(0.03)  # longer than the rest
    assert not pipe.is_reading()

    while (batch := connection.take()) is not None:
        batch.settle([Outcome.APPLIED] * len(batch.deliveries))
    assert pipe.is_reading()
