"""The simulated fleet at the broker: dial, say what the firmware wants, fall off, come back."""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import aiomqtt
import paho.mqtt.client as mqtt

from devices.contract import topics
from devices.contract.topics import Uplink
from devices.simulator.city import City
from devices.simulator.duty import Overheard
from devices.simulator.firmware import Firmware, Link
from devices.simulator.outbox import Message
from devices.simulator.plan import Broker, Credential, FleetPlan, Totals, Witness

LOG: Final = logging.getLogger("devices.simulator")
"""What the clients of scooters say: they lose their connections on purpose, again and again."""

_KEEPALIVE_S: Final = 30
_TIMEOUT_S: Final = 10.0
_FIRST_BACKOFF_S: Final = 0.5
_MOST_BACKOFF_S: Final = 20.0
_STABLE_S: Final = 30.0
_DIALS_PER_S: Final = 100
_OVERHEARD: Final = 64
_BOOTS_BEGAN_S: Final = 1_735_689_600
"""2025-01-01: boots are counted from here in seconds, so that a later fleet has higher ones."""

_PROTOCOLS: Final = {
    "3.1": aiomqtt.ProtocolVersion.V31,
    "3.1.1": aiomqtt.ProtocolVersion.V311,
    "5": aiomqtt.ProtocolVersion.V5,
}

Journal = Callable[[str, Message], None]
"""Told of every message that the broker confirmed, with the id of the scooter that sent it."""


async def run_fleet(
    plan: FleetPlan,
    broker: Broker,
    *,
    stop: asyncio.Event | None = None,
    totals: Totals | None = None,
    journal: Journal | None = None,
    witness: Witness | None = None,
) -> None:
    """Ride, report and obey until `stop` is set or this is cancelled.

    After `stop` each connected scooter sends what it has, says `offline` and disconnects.
    Cancelled, it disconnects without a goodbye. Returns, or raises CancelledError, when every
    connection is closed. A broker that is away is waited for.
    """
    stop = stop or asyncio.Event()
    totals = totals or Totals()
    city, overheard = City(plan.seed), Overheard(maxlen=_OVERHEARD)
    began_s, began = time.time(), time.monotonic()

    def now_ms() -> int:
        return int((began_s + time.monotonic() - began) * 1000)

    def scooter(scooter_id: str) -> _Scooter:
        credential = broker.credentials.get(scooter_id)
        firmware = Firmware(
            scooter_id,
            plan,
            city,
            boot=int(began_s) - _BOOTS_BEGAN_S,
            now_ms=now_ms(),
            totals=totals,
            command_key=credential.command_key if credential else None,
            witness=witness,
            overheard=overheard,
        )
        return _Scooter(firmware, broker, stop=stop, now_ms=now_ms, journal=journal)

    fleet = {scooter_id: scooter(scooter_id) for scooter_id in plan.scooter_ids()}
    async with asyncio.TaskGroup() as group:
        group.create_task(_stir_at(stop, fleet.values()), name="fleet stops")
        for scooter_id, each in fleet.items():
            run = each.run(first_dial_within_s=len(fleet) / _DIALS_PER_S)
            group.create_task(run, name=scooter_id)


async def _stir_at(stop: asyncio.Event, fleet: Iterable["_Scooter"]) -> None:
    await stop.wait()
    for scooter in fleet:
        scooter.stir()


class _Scooter:
    def __init__(
        self,
        firmware: Firmware,
        broker: Broker,
        *,
        stop: asyncio.Event,
        now_ms: Callable[[], int],
        journal: Journal | None,
    ) -> None:
        self._firmware = firmware
        self._id = firmware.scooter_id
        self._broker = broker
        shared = Credential(broker.username or "", broker.password or "")
        self._login = broker.credentials.get(self._id, shared)
        self._stop = stop
        self._stirred = asyncio.Event()
        self._now_ms = now_ms
        self._journal = journal
        self._ceiling_s = _FIRST_BACKOFF_S
        self._dial_at = 0.0

    def stir(self) -> None:
        """Something is to be done at once: whatever pauses goes on."""
        self._stirred.set()

    async def run(self, *, first_dial_within_s: float) -> None:
        await self._pause(random.uniform(0, first_dial_within_s))  # noqa: S311 - not a secret
        while not self._stop.is_set():
            _heed_cancellation()
            if self._firmware.link is Link.UP and time.monotonic() >= self._dial_at:
                await self._stay_connected()
            else:
                self._firmware.step(self._now_ms())
                until_dial_s = max(0.01, self._dial_at - time.monotonic())
                await self._pause(min(self._firmware.due_in_s(), until_dial_s))

    async def _stay_connected(self) -> None:
        """One connection from CONNECT to its end, whatever ends it."""
        totals = self._firmware.totals
        began = time.monotonic()
        try:
            async with self._connection() as client, asyncio.TaskGroup() as group:
                totals.connects += 1
                totals.connected += 1
                try:
                    listening = group.create_task(self._listen(client), name=f"{self._id} listens")
                    await self._report(client)
                    if self._firmware.link in (Link.NO_COVERAGE, Link.REBOOTING):
                        await _cut(client, listening)
                    listening.cancel()
                finally:
                    totals.connected -= 1
                    self._firmware.outbox.went_offline()
        except* aiomqtt.MqttError:
            if self._firmware.link is Link.UP:
                self._back_off(stable=time.monotonic() - began >= _STABLE_S)

    def _back_off(self, *, stable: bool) -> None:
        """Full jitter under a ceiling that doubles, so that a fleet does not return as one."""
        if stable:
            self._ceiling_s = _FIRST_BACKOFF_S
        self._dial_at = time.monotonic() + random.uniform(0, self._ceiling_s)  # noqa: S311 - jitter
        self._ceiling_s = min(_MOST_BACKOFF_S, self._ceiling_s * 2)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        client = self._client()
        dialling = asyncio.ensure_future(client.__aenter__())
        try:
            await asyncio.shield(dialling)
        except asyncio.CancelledError:
            # Cancelled inside CONNECT, aiomqtt would leave its socket and a task behind.
            with contextlib.suppress(aiomqtt.MqttError):
                await dialling
                await client.__aexit__(None, None, None)
            raise
        except aiomqtt.MqttError:
            _shut(client)
            raise
        try:
            yield client
        finally:
            await client.__aexit__(None, None, None)

    def _client(self) -> aiomqtt.Client:
        will = aiomqtt.Will(
            topics.uplink(self._id, Uplink.STATUS), self._firmware.dial(), qos=1, retain=True
        )
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=self._id,
            username=self._login.username or None,
            password=self._login.password or None,
            tls_context=self._broker.tls,
            protocol=_PROTOCOLS[self._firmware.model.mqtt],
            will=will,
            keepalive=_KEEPALIVE_S,
            timeout=_TIMEOUT_S,
            logger=LOG,
        )

    async def _report(self, client: aiomqtt.Client) -> None:
        """Say what there is to say until the firmware wants to be away or the fleet stops."""
        firmware, outbox = self._firmware, self._firmware.outbox
        # Before the birth, at which the gateway sends what waited for this scooter.
        await client.subscribe([(topics.receipts(self._id), 1), (topics.commands(self._id), 1)])
        await self._publish(client, _status(firmware.birth()))
        firmware.connected()
        while True:
            firmware.step(self._now_ms())
            if firmware.link is Link.ASLEEP:
                await self._publish(client, _status(firmware.goodbye("sleeping")))
            if firmware.link is Link.OFF:
                await self._publish(client, _status(firmware.goodbye("offline")))
            if firmware.link is not Link.UP:
                return
            while (message := outbox.next(self._now_ms())) is not None:
                await self._publish(client, message)
            if self._stop.is_set():
                await self._publish(client, _status(firmware.goodbye("offline")))
                return
            if (freeze_s := firmware.frozen_for_s()) is not None:
                await self._freeze(client, freeze_s)
            await self._pause(firmware.due_in_s())

    async def _publish(self, client: aiomqtt.Client, message: Message) -> None:
        topic = topics.uplink(self._id, message.uplink)
        await client.publish(topic, message.payload, qos=1, retain=message.retain)
        _heed_cancellation()
        self._firmware.outbox.sent(message, self._now_ms())
        if self._journal is not None:
            self._journal(self._id, message)

    async def _listen(self, client: aiomqtt.Client) -> None:
        """Take what the gateway says; raises MqttError when the connection ends."""
        async for message in client.messages:
            payload = bytes(message.payload)
            if message.topic.value == topics.receipts(self._id):
                self._firmware.outbox.receipted(payload)
            elif message.topic.value == topics.commands(self._id):
                now_ms = self._now_ms()
                self._firmware.hear_command(payload, retained=message.retain, now_ms=now_ms)
                self.stir()

    async def _freeze(self, client: aiomqtt.Client, for_s: float) -> None:
        """Neither read nor send while the connection stays open; then read all that has come."""
        paho = client._client  # noqa: SLF001 - see _shut
        open_socket = paho.socket()
        if not isinstance(open_socket, socket.socket):
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(open_socket.fileno())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._stop.wait()
        if open_socket.fileno() >= 0:
            loop.add_reader(open_socket.fileno(), _read, paho, open_socket)

    async def _pause(self, for_s: float) -> None:
        """Wait so long, or until something is to be done, or the fleet stops."""
        self._stirred.clear()
        if self._stop.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._stirred.wait()


def _status(payload: bytes) -> Message:
    return Message(Uplink.STATUS, payload, retain=True)


def _heed_cancellation() -> None:
    # Python 3.11's wait_for, which aiomqtt uses, swallows a cancellation that meets its result:
    # https://github.com/python/cpython/issues/86296
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _read(paho: mqtt.Client, open_socket: socket.socket) -> None:
    """What aiomqtt's own reader does: TLS may hold more than the socket shows."""
    paho.loop_read()
    while isinstance(open_socket, ssl.SSLSocket) and open_socket.pending():
        paho.loop_read()


async def _cut(client: aiomqtt.Client, listening: asyncio.Task[None]) -> None:
    """Lose coverage: the connection dies without a DISCONNECT, so the broker sends the will."""
    _shut(client)
    await asyncio.wait([listening], timeout=_TIMEOUT_S)


def _shut(client: aiomqtt.Client) -> None:
    # aiomqtt cannot end a connection without a DISCONNECT; paho's own `socket()` can be shut.
    paho = client._client  # noqa: SLF001 - see above
    open_socket = paho.socket()
    if isinstance(open_socket, socket.socket):
        with contextlib.suppress(OSError):  # the other side was faster
            open_socket.shutdown(socket.SHUT_RDWR)
