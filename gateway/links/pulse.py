"""Whether a connection is alive: keepalive, and an echo that proves messages still arrive."""

from collections.abc import Callable

import mqtt5

from gateway.links.connection import Connection


class Pulse:
    """Beaten every `tick_s` seconds; ends a connection that is silent.

    While the connection is paused nothing is read, so silence proves nothing; PINGREQs still
    go out, because the broker drops a client that is silent for 1.5 keepalives (MQTT 5 §3.1.2.10).
    """

    def __init__(
        self,
        connection: Connection,
        *,
        keepalive_s: float,
        echo_period_s: float,
        echo: Callable[[], bytes],
    ) -> None:
        self._connection = connection
        self._keepalive_s = keepalive_s
        self._echo_period_s = echo_period_s
        self._echo = echo
        self._pinged_at = connection.read_at
        self._echoed_at: float | None = None
        self.tick_s = min(keepalive_s, echo_period_s) / 4

    def beat(self, now: float) -> None:
        """Send what is due; leave the connection when what was due has not come."""
        connection = self._connection
        if now - self._pinged_at >= self._keepalive_s / 2:
            self._pinged_at = now
            connection.write(mqtt5.PingReqPacket().write())
        if connection.is_paused:
            self._echoed_at = None
            return
        if now - connection.read_at > 1.5 * self._keepalive_s:
            connection.leave(f"nothing came for {now - connection.read_at:.0f} s")
            return
        if connection.is_sated:
            self._echoed_at = None  # an echo would wait behind the Receive Maximum
            return
        echoed_at, delivered_at = self._echoed_at, connection.delivered_at
        if echoed_at is not None and delivered_at >= echoed_at:
            self._echoed_at = echoed_at = None
        if echoed_at is not None and now - echoed_at >= self._echo_period_s:
            connection.leave("an echo did not come back: messages no longer arrive")
        elif echoed_at is None and now - delivered_at >= self._echo_period_s:
            self._echoed_at = now
            connection.write(self._echo())
