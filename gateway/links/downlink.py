"""MQTT out: publish at QoS 1 and await the broker's PUBACK; the gateway's own birth and will."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final, TypeVar

import aiomqtt
import orjson
import structlog
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.refusals import REFUSALS, is_refusal
from devices.contract import topics
from gateway.errors import GatewayError, ServerAway
from gateway.links.broker import BrokerAddress
from gateway.metrics import Metrics
from gateway.outage import Outage

log = structlog.get_logger()

_T = TypeVar("_T")

DROPPED: Final = "$SYS/broker/publish/messages/dropped"
TIMEOUT_S: Final = 5.0
IN_FLIGHT_MAX: Final = 1000


class Published(StrEnum):
    """What a PUBACK says (MQTT 5 §3.4.2.1)."""

    TAKEN = "taken"
    NOBODY = "nobody"  # subscribes to it: no session, whether connected or kept, gets it


_NOBODY: Final = 0x10
_REFUSED: Final = 0x80


class PublishUnknown(GatewayError):
    """The broker did not confirm in time: it may have the message or not."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"unknown whether the broker has the message on {topic}")
        self.topic = topic


def _keep_cancelled() -> None:
    """A cancellation must not get lost: aiomqtt's exit may fail and hide it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Client(aiomqtt.Client):
    """The library throws the reason code of a PUBACK away; this one returns it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the library's
        self._reasons: dict[int, int] = {}
        super().__init__(*args, **kwargs)

    async def publish_at_least_once(
        self, topic: str, payload: bytes, *, retain: bool, properties: Properties | None
    ) -> int:
        """As the library's `publish` at QoS 1; returns the PUBACK's reason code."""
        info = self._client.publish(topic, payload, 1, retain, properties)
        if info.rc != MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message")
        confirmation = asyncio.Event()
        try:
            if not info.is_published():
                with self._pending_call(info.mid, confirmation, self._pending_publishes):
                    await self._wait_for(confirmation.wait(), timeout=None)
            return self._reasons.get(info.mid, 0)
        finally:
            self._reasons.pop(info.mid, None)

    async def _wait_for(self, fut: Awaitable[_T], timeout: float | None) -> _T:  # noqa: ASYNC109 - as the library's
        """As the library's, without `asyncio.wait_for`: before Python 3.12 that swallows a
        cancellation that comes together with the answer, and the loop that publishes would never
        end (python/cpython#86296).
        """
        within_s = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if within_s == math.inf else within_s):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None

    def _on_publish(
        self,
        client: Any,  # noqa: ANN401 - as the library's
        userdata: Any,  # noqa: ANN401
        mid: int,
        reason_code: Any,  # noqa: ANN401
        properties: Any,  # noqa: ANN401
    ) -> None:
        with contextlib.suppress(KeyError):
            if mid in self._pending_publishes:
                self._reasons[mid] = reason_code.value
        super()._on_publish(client, userdata, mid, reason_code, properties)


class Downlink:
    """One connection that publishes; `may_connect` is awaited before each CONNECT."""

    def __init__(
        self,
        instance: str,
        broker: BrokerAddress,
        metrics: Metrics,
        *,
        may_connect: Callable[[], Awaitable[bool]],
    ) -> None:
        self._instance = instance
        self._broker = broker
        self._metrics = metrics
        self._may_connect = may_connect
        self._outage = Outage("broker, downlink")
        self._client: _Client | None = None
        self._until: asyncio.Timeout | None = None

    @property
    def connected(self) -> bool:
        """Whether `publish` can be tried."""
        return self._client is not None

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
    ) -> Published:
        """Return when the broker has it (QoS 1) or it is written (QoS 0).

        Raises ServerAway when it cannot be sent or the broker refuses it, and PublishUnknown when
        no PUBACK came.
        """
        client = self._client
        if client is None:
            raise ServerAway("broker", "the downlink is not connected")
        properties = _properties(expiry_s, correlation)
        try:
            if qos == 0:
                await client.publish(topic, payload, qos=0, retain=retain, properties=properties)
                return Published.TAKEN
            reason = await client.publish_at_least_once(
                topic, payload, retain=retain, properties=properties
            )
        except aiomqtt.MqttCodeError as error:
            raise ServerAway("broker", str(error)) from error
        except aiomqtt.MqttError as error:
            raise PublishUnknown(topic) from error
        if reason >= _REFUSED:
            raise ServerAway("broker", f"it refuses what is published on {topic}: {reason:#x}")
        return Published.NOBODY if reason == _NOBODY else Published.TAKEN

    async def run(self) -> None:
        """Stay connected for ever. Cancel to stop: the goodbye is published first."""
        while True:
            if not await self._may_connect():
                await asyncio.sleep(1.0)
                continue
            try:
                await self._stay_connected()
            except aiomqtt.MqttError as error:
                reason = str(error)
                _keep_cancelled()
            except TimeoutError:
                reason = "told to leave"
            await asyncio.sleep(self._outage.away(reason))

    def leave(self, reason: str) -> None:
        """Disconnect now; `run` asks `may_connect` again."""
        if self._until is not None:
            log.info("downlink leaves", reason=reason)
            self._until.reschedule(asyncio.get_running_loop().time())

    async def _stay_connected(self) -> None:
        try:
            async with self._new_client() as client, asyncio.timeout(None) as self._until:
                try:
                    await self._say(client, "online")
                    await client.subscribe([(DROPPED, 0), (REFUSALS, 0)])
                    self._tell_connected(client)
                    await self._follow_broker(client)
                except asyncio.CancelledError:
                    self._client = None
                    await self._say_goodbye(client)
                    raise
        finally:
            self._client = self._until = None
            self._metrics.connected.labels(connection="downlink").set(0)

    def _tell_connected(self, client: _Client) -> None:
        self._client = client
        self._outage.back()
        self._metrics.reconnects.labels(connection="downlink").inc()
        self._metrics.connected.labels(connection="downlink").set(1)

    async def _follow_broker(self, client: aiomqtt.Client) -> None:
        """Count what the broker tells of itself."""
        async for message in client.messages:
            told = message.payload
            if not isinstance(told, bytes):
                continue
            if message.topic.value == REFUSALS:
                self._metrics.broker_refused_logins.inc(is_refusal(told))
            elif message.topic.value == DROPPED and told.isdigit():
                self._metrics.broker_dropped.set(int(told))

    async def _say(self, client: aiomqtt.Client, condition: str) -> None:
        payload = orjson.dumps({"s": condition})
        await client.publish(topics.gateway_status(self._instance), payload, qos=1, retain=True)

    async def _say_goodbye(self, client: aiomqtt.Client) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._say(client, "offline")
        except (aiomqtt.MqttError, TimeoutError) as error:
            log.debug("no goodbye", reason=str(error))

    def _new_client(self) -> _Client:
        """A client serves one connection: its queues and pending calls are stale afterwards."""
        broker = self._broker
        client = _Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=f"{self._instance}/downlink",
            protocol=aiomqtt.ProtocolVersion.V5,
            keepalive=broker.keepalive_s,
            tls_context=broker.tls,
            timeout=TIMEOUT_S,
            # The library would hold back the 21st until an earlier one is confirmed: a command that
            # was in time when it was handed over. mosquitto.conf allows as many.
            max_inflight_messages=IN_FLIGHT_MAX,
            # A command shall not wait for the broker's TCP to acknowledge the reply before it.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            will=aiomqtt.Will(
                topics.gateway_status(self._instance),
                orjson.dumps({"s": "lost"}),
                qos=1,
                retain=True,
            ),
        )
        client.pending_calls_threshold = 1000  # receipts leave many at a time; it warns at 10
        return client


def _properties(expiry_s: int | None, correlation: bytes | None) -> Properties | None:
    if expiry_s is None and correlation is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    if correlation is not None:
        properties.CorrelationData = correlation
    return properties
