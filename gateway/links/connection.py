"""One MQTT 5 connection: reads into an intake, stops reading when that is full, and settles."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

import mqtt5

from gateway.links.batch import Batch
from gateway.links.delivery import Delivery, Outcome
from gateway.links.holding import Holding
from gateway.links.intake import Intake, pubacks
from gateway.links.packet_stream import MalformedPacket

_ENOUGH: Final = 32 * 1024
"""Bytes that made a read worth its while."""


class Connection(asyncio.BufferedProtocol):
    """Made for one TCP or TLS connection and dies with it.

    Reading stops at the intake's bound and goes on below three quarters of it: the broker does
    not always keep to the Receive Maximum (2.0.11 leaks its quota), and QoS 0 has none. With
    `rest_s` it waits so many seconds after a small read: what comes meanwhile costs one together.
    """

    def __init__(
        self,
        holding: Holding,
        *,
        held_max: int,
        arrived: Callable[[], None],
        rest_s: float = 0.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._intake = Intake(self, holding, held_max=held_max)
        self._arrived = arrived
        self._rest_s = rest_s
        self._resting: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[mqtt5.Packet | None] | None = None
        self._reason: str | None = None
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.is_paused = False
        self.read_at = self._loop.time()
        """When anything was read last, in the loop's time."""
        self._started_at = self.read_at
        self.take = self._intake.take
        self.oldest_read_at = self._intake.oldest_read_at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.read_at = self._started_at = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop names it
        return self._intake.stream.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._intake.stream.filled(nbytes)
        self._read()
        if self._rest_s and nbytes < _ENOUGH and self._transport is not None and not self._reason:
            self._transport.pause_reading()
            self._resting = self._resting or self._loop.call_later(self._rest_s, self._rested)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave(str(exc) if exc else "the broker closed the connection")
        if not self.lost.done():
            self.lost.set_result(str(self._reason))

    @property
    def reason(self) -> str:
        """Why it is over; empty before."""
        return self._reason or ""

    @property
    def is_over(self) -> bool:
        """Whether nothing can be settled here any more."""
        return self._reason is not None

    @property
    def delivered_at(self) -> float:
        """When a delivery, be it an echo, was read last; at first when reading began."""
        return max(self._started_at, self._intake.delivered_at)

    @property
    def is_sated(self) -> bool:
        """Whether the broker may not send any more at QoS 1 until something is settled."""
        return self._intake.is_sated

    def ask(self, packet: bytes) -> asyncio.Future[mqtt5.Packet | None]:
        """Write a CONNECT or SUBSCRIBE; the answer is None when the connection ended instead."""
        self._answer = self._loop.create_future()
        if self._reason is not None:
            self._answer.set_result(None)
        self.write(packet)
        return self._answer

    def write(self, packet: bytes) -> None:
        """Send now, or never when the connection is over."""
        if self._transport is not None and self._reason is None:
            self._transport.write(packet)

    def settle(self, batch: Batch, outcomes: Sequence[Outcome | None]) -> None:
        """See `Batch.settle`."""
        if self._reason is not None:
            return
        if packets := self._intake.settle(batch, outcomes):
            self.write(packets)
        if self.is_paused and not self._intake.is_full(0.75):
            self.is_paused = False
            self._started_at = self._loop.time()
            self._read()
            self._go_on()

    def leave(self, reason: str, *, goodbye: bool = False) -> None:
        """End the connection; what is unsettled is abandoned. Later calls do nothing.

        With `goodbye` the broker is told first, by a DISCONNECT that keeps the session.
        """
        if self._reason is not None:
            return
        if goodbye:
            self.write(mqtt5.DisconnectPacket().write())
        self._reason = reason
        self._intake.abandon()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        if self._transport is not None:
            (self._transport.close if goodbye else self._transport.abort)()

    async def finish(self, within_s: float = 1.0) -> None:
        """Wait until what was written is out and the transport is gone."""
        if self._transport is None:
            return
        try:
            await asyncio.wait({self.lost}, timeout=within_s)
        finally:
            self._transport.abort()

    def _rested(self) -> None:
        self._resting = None
        self._go_on()

    def _go_on(self) -> None:
        may_read = not self.is_paused and self._resting is None and self._reason is None
        if may_read and self._transport is not None:
            self._transport.resume_reading()

    def _read(self) -> None:
        self.read_at = self._loop.time()
        try:
            for packet in self._intake.read(self.read_at):
                self._receive(packet)
                if self._reason is not None:
                    return
        except MalformedPacket as error:
            self.leave(f"malformed packet: {error}")
            return
        if self._intake.is_full() and not self.is_paused and self._transport is not None:
            self.is_paused = True
            self._transport.pause_reading()
        if self._intake.has_waiting:
            self._arrived()

    def _receive(self, packet: mqtt5.Packet) -> None:
        match packet:
            case Delivery():
                self.write(pubacks([packet]))
            case mqtt5.PingRespPacket() | mqtt5.UnsubAckPacket():
                pass  # whether or not there was something to unsubscribe
            case mqtt5.PubAckPacket(reason_code=code):
                if code != mqtt5.PubAckReasonCode.SUCCESS:
                    self.leave(f"the echo was refused: {code.name}")
            case mqtt5.DisconnectPacket(reason_code=code, reason_str=text):
                self.leave(f"the broker disconnected us: {code.name} {text or ''}".rstrip())
            case mqtt5.ConnAckPacket() | mqtt5.SubAckPacket() if (
                self._answer is not None and not self._answer.done()
            ):
                self._answer.set_result(packet)
            case _:
                self.leave(f"an unexpected {type(packet).__name__}")
