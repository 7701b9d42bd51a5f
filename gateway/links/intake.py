"""What one connection read and nobody settled yet: batches, their bound and their account."""

import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import mqtt5

from gateway.links.batch import BATCH_MAX, Batch, Origin
from gateway.links.delivery import Delivery, Outcome
from gateway.links.holding import Holding
from gateway.links.packet_stream import PacketStream

HELD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes held unsettled at which a connection stops reading, however few deliveries they are."""

_GROWS_FOR_S: Final = 0.1
_GATEWAYS_OWN: Final = "gateway/"
_PUBACK: Final = 0x40020000


def pubacks(deliveries: Sequence[Delivery]) -> bytes:
    """One PUBACK for each delivery at QoS 1, in their order (MQTT 5 §3.4)."""
    words = [_PUBACK | each.packet_id for each in deliveries if each.packet_id is not None]
    return struct.pack(f">{len(words)}I", *words)


class Intake:
    """Fills batches from the stream; no I/O.

    The bound lies a quarter above the Receive Maximum, `held_max`: a broker that keeps to it
    stops sending before we stop reading, and its SUBACK, PINGRESP and DISCONNECT still arrive.
    """

    def __init__(self, origin: Origin, holding: Holding, *, held_max: int) -> None:
        self.stream = PacketStream()
        self._origin = origin
        self._holding = holding
        self._quota = held_max
        self._bound = held_max + held_max // 4
        self._waiting: deque[Batch] = deque()
        self._taken: dict[Batch, None] = {}
        self._now = 0.0
        self.delivered_at = 0.0
        """When a delivery, be it an echo, was read last, in the loop's time."""

    def is_full(self, share: float = 1.0) -> bool:
        """Whether this share of our own bound on deliveries or bytes is reached."""
        held = self._holding
        return held.count >= self._bound * share or held.size >= HELD_BYTES_MAX * share

    @property
    def is_sated(self) -> bool:
        """Whether the broker may not send any more at QoS 1 until something is settled."""
        return self._holding.count >= self._quota

    def read(self, now: float) -> Iterator[mqtt5.Packet]:
        """Read what the stream holds, as far as there is room; deliveries go into batches.

        Yields every other packet, and the gateway's own echoes, which are booked already.
        Raises MalformedPacket.
        """
        self._now = now
        while not self.is_full():
            batch = self._growing()
            most = min(BATCH_MAX, len(batch.deliveries) + self._bound - self._holding.count)
            packet, echoes = self._fill(batch, most)
            if batch.deliveries and not (self._waiting and self._waiting[-1] is batch):
                self._waiting.append(batch)
            yield from echoes
            if packet is not None:
                yield packet
            elif len(batch.deliveries) + len(echoes) < most:
                return

    @property
    def has_waiting(self) -> bool:
        """Whether `take` has something."""
        return bool(self._waiting)

    def take(self) -> Batch | None:
        """The oldest batch that was not taken, if any."""
        if not self._waiting:
            return None
        batch = self._waiting.popleft()
        self._taken[batch] = None
        return batch

    def settle(self, batch: Batch, outcomes: Sequence[Outcome | None]) -> bytes:
        """Book the outcomes, keep what has none; returns the PUBACKs to send."""
        settled, booked = batch.deliveries, outcomes
        batch.deliveries = []
        if None in outcomes:
            pairs = list(zip(settled, outcomes, strict=True))
            settled = [delivery for delivery, outcome in pairs if outcome is not None]
            batch.deliveries = [delivery for delivery, outcome in pairs if outcome is None]
            booked = [outcome for outcome in outcomes if outcome is not None]
        self._holding.settle(booked)  # type: ignore[arg-type]
        if not batch.deliveries:
            self._taken.pop(batch, None)
            self._holding.size -= batch.size
            batch.size = 0
        return pubacks(settled)

    def abandon(self) -> None:
        """Let everything go: its connection is gone and the broker sends it again."""
        self._waiting.clear()
        self._taken.clear()
        self._holding.abandon()

    def oldest_read_at(self) -> float | None:
        """When the oldest unsettled delivery was read, in the loop's time."""
        for batches in (self._taken, self._waiting):
            for batch in batches:
                return batch.read_at
        return None

    def _growing(self) -> Batch:
        """The youngest batch while it has room and is young, else a new one."""
        if self._waiting:
            batch = self._waiting[-1]
            if len(batch.deliveries) < BATCH_MAX and self._now - batch.read_at < _GROWS_FOR_S:
                return batch
        return Batch(self._origin, self._now)

    def _fill(self, batch: Batch, most: int) -> tuple[mqtt5.Packet | None, list[Delivery]]:
        deliveries, before, unread = batch.deliveries, len(batch.deliveries), self.stream.unread
        packet = self.stream.read_into(deliveries, most)
        if len(deliveries) == before:
            return packet, []
        size = unread - self.stream.unread
        self._holding.take(len(deliveries) - before, size)
        batch.size += size
        self.delivered_at = self._now
        batch.received_ms = time.time_ns() // 1_000_000
        echoes = [each for each in deliveries[before:] if each.topic.startswith(_GATEWAYS_OWN)]
        if echoes:
            self._holding.settle([Outcome.ECHO] * len(echoes))
            deliveries[before:] = [
                each for each in deliveries[before:] if not each.topic.startswith(_GATEWAYS_OWN)
            ]
            if not deliveries:
                self._holding.size -= size
        return packet, echoes
