"""The operator's line to the gateway: one MQTT 5 connection with a key, made again when lost."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import aiomqtt
import orjson
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.console.exits import CommandFailed, Exit
from devices.console.output import printable, talk
from devices.contract import topics
from devices.contract.commands import CommandError, Reply, parse_reply
from gateway.console.operator_key import OperatorKey

TIMEOUT_S: Final = 10.0
_KEEPALIVE_S: Final = 15
_SESSION_S: Final = 3600
"""How long the broker keeps replies while the connection is lost."""

_BACKOFF_S: Final = 0.5
_BACKOFF_MOST_S: Final = 5.0
_LOSSES: Final = 4
"""After so many losses in a row, before a reply came, somebody else probably uses the key."""

_STATUS: Final = "gateway/+/status"
_BAD_LOGIN: Final = {0x86, 0x87}
_TAKEN_OVER: Final = 0x8E


class _Client(aiomqtt.Client):
    """The library cannot say with a DISCONNECT that the session ends; this one can."""

    def end_session(self) -> None:
        """Disconnect; the broker keeps nothing from now on (MQTT 5 §3.14.2.2.2)."""
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)


class OperatorLine:
    """Publishes requests and hears replies; `again` is what to ask anew after a reconnect."""

    def __init__(
        self,
        key: OperatorKey,
        *,
        hear: Callable[[Reply], None],
        again: Callable[[], list[bytes]],
    ) -> None:
        self._key = key
        self._hear = hear
        self._again = again
        self._tls = ssl.create_default_context(cadata=key.authority_pem)
        self._client: aiomqtt.Client | None = None
        self._connected = asyncio.Event()
        self._losses = 0
        self.gateways: dict[str, str] = {}
        """What each gateway said of itself last: `online`, `offline`, `lost`."""

    async def run(self) -> None:
        """Stay connected for ever.

        Raises CommandFailed when the broker cannot be reached at first, and whenever it refuses
        the key.
        """
        is_first = True
        while True:
            try:
                async with self._connection(is_first=is_first) as client:
                    is_first = False
                    for payload in self._again():
                        await self._publish(client, payload)
                    self._client = client
                    self._connected.set()
                    async for message in client.messages:
                        self._take(message)
            except aiomqtt.MqttError as error:
                _keep_cancelled()
                self._judge(error, is_first=is_first)
            finally:
                self._client = None
                self._connected.clear()
            ceiling_s = min(_BACKOFF_MOST_S, _BACKOFF_S * 2**self._losses)
            await asyncio.sleep(random.uniform(ceiling_s / 2, ceiling_s))  # noqa: S311

    async def up(self) -> None:
        """Return once it is connected."""
        await self._connected.wait()

    async def ask(self, payload: bytes) -> None:
        """Return when the broker has it, or when it is left to the next connection."""
        while True:
            await self._connected.wait()
            client = self._client
            if client is None:
                continue
            # When it cannot be told whether the broker has it, it is among what is asked again.
            with contextlib.suppress(aiomqtt.MqttError):
                await self._publish(client, payload)
            _keep_cancelled()
            return

    async def prove(self) -> None:
        """Connect once; raises CommandFailed."""
        try:
            async with self._connection(is_first=True):
                pass
        except aiomqtt.MqttError as error:
            _keep_cancelled()
            self._judge(error, is_first=True)

    async def _publish(self, client: aiomqtt.Client, payload: bytes) -> None:
        await client.publish(topics.requests(self._key.login), payload, qos=1)

    @contextlib.asynccontextmanager
    async def _connection(self, *, is_first: bool) -> AsyncGenerator[aiomqtt.Client, None]:
        """Subscribed, so that no reply to what is asked on it is missed.

        What earlier commands left unread is nobody's any more; what comes while this one is
        disconnected is kept for it, and nothing once it is done.
        """
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        client = _Client(
            self._key.host,
            self._key.port,
            username=self._key.login,
            password=self._key.secret,
            identifier=self._key.login,  # the broker forces it
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=is_first,
            properties=properties,
            keepalive=_KEEPALIVE_S,
            tls_context=self._tls,
            timeout=TIMEOUT_S,
        )
        client.pending_calls_threshold = 10_000  # many scooters at a time; it warns at 10
        async with client:
            await client.subscribe([(topics.replies(self._key.login), 1), (_STATUS, 1)])
            is_lost = False
            try:
                yield client
            except aiomqtt.MqttError:
                is_lost = True
                raise
            finally:
                if not is_lost:
                    client.end_session()

    def _take(self, message: aiomqtt.Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        if message.topic.value.startswith("gateway/"):
            self._note_gateway(message.topic.value, payload)
            return
        try:
            reply = parse_reply(payload)
        except CommandError as error:
            talk(f"a reply that cannot be read: {error}")
            return
        self._losses = 0
        self._hear(reply)

    def _note_gateway(self, topic: str, payload: bytes) -> None:
        name = topic.split("/")[1]
        with contextlib.suppress(orjson.JSONDecodeError):
            match orjson.loads(payload):
                case {"s": str(condition)}:
                    self.gateways[name] = printable(condition)

    def _judge(self, error: aiomqtt.MqttError, *, is_first: bool) -> None:
        """Tell a loss, or raise what nobody can wait for."""
        key, code = self._key, _code(error)
        if code in _BAD_LOGIN:
            raise CommandFailed(
                f"the broker refuses {key.login}: the key was revoked or has another secret now. "
                "Ask for a new bundle and run `scooter login`",
                code=Exit.REFUSED,
            ) from error
        if is_first:
            raise CommandFailed(f"no broker for {key.login} at {key.host}:{key.port}: {error}")
        self._losses += 1
        is_taken_over = code == _TAKEN_OVER and self._losses > 1  # once may be a revocation
        if is_taken_over or self._losses == _LOSSES:
            talk(f"somebody else seems to use {key.login}: one key has one connection")
        elif self._losses == 1:
            talk(f"the connection is lost ({error}); trying again")


def _code(error: aiomqtt.MqttError) -> int | None:
    found: Any = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    value = getattr(found, "value", found)
    return value if isinstance(value, int) else None


def _keep_cancelled() -> None:
    """The library's exit may fail while this is cancelled, and hide it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
