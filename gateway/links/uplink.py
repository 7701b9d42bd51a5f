"""MQTT in: persistent broker sessions that yield batches of deliveries and survive reconnects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import cycle
from typing import Any, Final

import mqtt5
import structlog

from devices.contract import topics
from devices.contract.topics import Uplink
from gateway.errors import ServerAway
from gateway.links.batch import Batch
from gateway.links.broker import BrokerAddress
from gateway.links.connection import Connection
from gateway.links.holding import Holding
from gateway.links.packet_stream import PACKET_MAX
from gateway.links.plans import SessionPlan, tellable
from gateway.links.pulse import Pulse
from gateway.metrics import Metrics
from gateway.outage import Outage

log = structlog.get_logger()

CONNECT_TIMEOUT_S: Final = 10.0


class Session:
    """One persistent broker session, with at most one connection at a time.

    `may_connect` is awaited before every CONNECT and asked again a second later when it says
    no: the lease decides who connects, not the broker.
    """

    def __init__(
        self,
        plan: SessionPlan,
        broker: BrokerAddress,
        metrics: Metrics,
        *,
        may_connect: Callable[[], Awaitable[bool]],
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._metrics = metrics
        self._may_connect = may_connect
        self._outage = Outage(f"broker, {plan.name}")
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None
        self._patterns = (*plan.filters, topics.echo(plan.instance))
        self._packet_ids = cycle(range(1, 65536))
        self._was_connected = False
        self.connected = False

    async def run(self) -> None:
        """Stay connected for ever. Cancel to stop: the broker is told and keeps the session."""
        while True:
            if not await self._may_connect():
                await asyncio.sleep(1.0)
                continue
            try:
                await self._stay_connected()
            except OSError as error:
                reason = str(error) or type(error).__name__
            except ServerAway as error:
                reason = error.detail
            await asyncio.sleep(self._outage.away(reason))

    async def batches(self) -> AsyncIterator[Batch]:
        """Every batch that arrives, across reconnects; several consumers share them."""
        size = self._metrics.batch_size.labels(session=self._plan.name)
        while True:
            batch = self._connection.take() if self._connection else None
            if batch is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            size.observe(len(batch.deliveries))
            yield batch
            await asyncio.sleep(0)  # a consumer that never waits must not stop the loop

    def leave(self, reason: str) -> None:
        """Disconnect at once, keeping the broker session; `run` asks `may_connect` again."""
        if self._connection is not None:
            self._connection.leave(reason, goodbye=True)

    def oldest_unsettled_s(self) -> float:
        """Age of the oldest delivery that is not settled, in seconds; 0 when there is none."""
        read_at = self._connection.oldest_read_at() if self._connection else None
        return 0.0 if read_at is None else asyncio.get_running_loop().time() - read_at

    async def _stay_connected(self) -> None:
        """One connection, from CONNECT to its end; raises ServerAway or OSError."""
        connection = self._connection = Connection(
            Holding(self._metrics),
            held_max=self._plan.held_max,
            arrived=self._arrived.set,
            rest_s=self._plan.rest_s,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                keepalive_s = await self._connect(connection)
            await self._watch(connection, keepalive_s)
        finally:
            self._tell_connected(connected=False)
            connection.leave("stopped", goodbye=True)
            await connection.finish()

    def _tell_connected(self, *, connected: bool) -> None:
        self.connected = connected
        self._metrics.connected.labels(connection=self._plan.name).set(connected)
        if connected:
            self._outage.back()
            self._metrics.reconnects.labels(connection=self._plan.name).inc()

    async def _connect(self, connection: Connection) -> float:
        """Returns the keepalive that counts, in seconds."""
        connack = await _dial(connection, self._plan, self._broker)
        self._tell_session(present=connack.session_present)
        return connack.server_keep_alive or self._broker.keepalive_s

    def _tell_session(self, *, present: bool) -> None:
        name = self._plan.name
        if self._was_connected and not present:
            self._metrics.sessions_forgotten.labels(session=name).inc()
            log.warning("session forgotten by the broker: what it queued is lost", session=name)
        elif not self._was_connected:
            log.info("session", session=name, resumed=present)
        self._was_connected = True

    def _subscribe(self, connection: Connection) -> asyncio.Future[mqtt5.Packet | None]:
        """After every connect: a session that is present may still have lost its subscriptions."""
        if self._plan.unwanted:
            unwanted = list(self._plan.unwanted)
            connection.write(mqtt5.UnsubscribePacket(next(self._packet_ids), unwanted).write())
        status = topics.every(Uplink.STATUS)
        filters = [
            mqtt5.TopicFilter(
                pattern,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                # For a status the flag tells an old one from a live one; whoever retains
                # anything else is to hear of it at once.
                retain_as_published=pattern != status,
                retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
            )
            for pattern in self._patterns
        ]
        return connection.ask(mqtt5.SubscribePacket(next(self._packet_ids), filters).write())

    def _check(self, suback: mqtt5.Packet | None) -> None:
        if not isinstance(suback, mqtt5.SubAckPacket):
            return  # the connection is over and says why
        if len(suback.reason_codes) != len(self._patterns):
            raise ServerAway("broker", "it answered another subscription")
        refused = [
            f"{tellable(pattern)} {code.name}"
            for pattern, code in zip(self._patterns, suback.reason_codes, strict=True)
            if code != mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
        ]
        if refused:
            raise ServerAway("broker", f"it refused a subscription: {', '.join(refused)}")
        self._tell_connected(connected=True)

    async def _watch(self, connection: Connection, keepalive_s: float) -> None:
        """Until the connection is over; raises ServerAway.

        The SUBACK has no time of its own: it comes behind what the broker has queued, which
        may be waiting for a consumer that waits for Redis.
        """
        pulse = Pulse(
            connection,
            keepalive_s=keepalive_s,
            echo_period_s=self._plan.echo_period_s,
            echo=self._echo,
        )
        suback = self._subscribe(connection)
        while not connection.lost.done():
            waited: set[asyncio.Future[Any]] = (
                {connection.lost} if self.connected else {connection.lost, suback}
            )
            await asyncio.wait(waited, timeout=pulse.tick_s, return_when=asyncio.FIRST_COMPLETED)
            if suback.done() and not self.connected:
                self._check(suback.result())
            pulse.beat(asyncio.get_running_loop().time())
        raise ServerAway("broker", connection.reason)

    def _echo(self) -> bytes:
        return mqtt5.PublishPacket(
            topics.echo(self._plan.instance),
            self._plan.name.encode(),
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=next(self._packet_ids),
            message_expiry_interval=60,
        ).write()


async def delete_session(plan: SessionPlan, broker: BrokerAddress, metrics: Metrics) -> None:
    """Have the broker forget the session and what it queued; raises ServerAway or OSError."""
    connection = Connection(Holding(metrics), held_max=plan.held_max, arrived=_ignored)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _dial(connection, replace(plan, session_expiry_s=0), broker, clean_start=True)
    finally:
        connection.leave("the session is deleted", goodbye=True)
        await connection.finish()


def _ignored() -> None:
    """A session that starts clean brings nothing."""


async def _dial(
    connection: Connection, plan: SessionPlan, broker: BrokerAddress, *, clean_start: bool = False
) -> mqtt5.ConnAckPacket:
    """Connect and log in; raises ServerAway or OSError."""
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: connection, broker.host, broker.port, ssl=broker.tls
        )
    except asyncio.CancelledError:
        # The loop closes what it had connected already: nothing can be written there.
        connection.connection_lost(ConnectionAbortedError("cancelled while connecting"))
        raise
    connack = await connection.ask(
        mqtt5.ConnectPacket(
            plan.client_id,
            username=broker.username,
            password=broker.password.encode() if broker.password is not None else None,
            clean_start=clean_start,
            keep_alive=broker.keepalive_s,
            session_expiry_interval=plan.session_expiry_s,
            receive_max=plan.held_max,
            max_packet_size=PACKET_MAX,
        ).write()
    )
    if not isinstance(connack, mqtt5.ConnAckPacket):
        raise ServerAway("broker", connection.reason or "no CONNACK")
    if connack.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
        said = f"{connack.reason_code.name} {connack.reason_str or ''}".rstrip()
        raise ServerAway("broker", f"it refused the connection: {said}")
    return connack
