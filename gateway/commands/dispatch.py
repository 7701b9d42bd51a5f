"""A recorded command goes out; sent again until it is answered or its time is up.

The row comes first, the publish after its commit: whoever carries on after a crash finds the
same command under the same id, and the scooter does nothing twice. Sends to one scooter go one
after the other, in the order in which they were recorded.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import asyncpg
import structlog

from devices.contract import topics
from devices.contract.commands import COMMANDS, CommandStatus
from gateway.commands import ledger
from gateway.commands.cancelling import Rights
from gateway.commands.facts import Facts, FactsReader
from gateway.commands.judging import LEFT_MIN_MS
from gateway.commands.ledger_rows import Move, Sending
from gateway.commands.open_commands import OpenCommand, OpenCommands
from gateway.commands.sending import Envelope, pause_s
from gateway.commands.withholding import Withholding
from gateway.errors import ServerAway
from gateway.links.downlink import Published, PublishUnknown
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY

log = structlog.get_logger()

AT_ONCE: Final = 64
"""Scooters that are being sent something at the same time."""

AGAIN_S: Final = 0.25
"""While the broker, Redis or Postgres is away, until a send is tried again."""

STALE_S: Final = 10.0
"""What was recorded so long ago, and may wait, is recorded anew before it leaves: the scooter may
have booted, or have another key.
"""

LEFT_MIN_S: Final = LEFT_MIN_MS / 1000

_AWAY: Final[tuple[type[BaseException], ...]] = (ServerAway, *AWAY)


class Publisher(Protocol):
    """The way to the broker, as far as commands need it."""

    @property
    def connected(self) -> bool: ...

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, expiry_s: int | None = None
    ) -> Published: ...


class Dispatcher:
    """Sends what is due in `open_commands`, while `is_primary`."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        publisher: Publisher,
        *,
        facts: FactsReader,
        envelope: Envelope,
        rights: Rights,
        open_commands: OpenCommands,
        is_primary: Callable[[], bool],
        replies_wanted: asyncio.Event,
        metrics: Metrics,
        by: str,
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._facts = facts
        self._envelope = envelope
        self._open = open_commands
        self._is_primary = is_primary
        self._replies_wanted = replies_wanted
        self._metrics = metrics
        self._by = by
        self._withholding = Withholding(
            pool,
            rights=rights,
            open_commands=open_commands,
            replies_wanted=replies_wanted,
            metrics=metrics,
            by=by,
        )
        self._outage = Outage("sending commands", most_s=5.0)
        self._turns: dict[str, deque[OpenCommand]] = {}

    async def run(self) -> None:
        """Send for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._open.changed.clear()
                while len(self._turns) < AT_ONCE and (command := self._open.take_due()):
                    self._line_up(group, command)
                has_room = len(self._turns) < AT_ONCE
                wait_s = min(1.0, self._open.next_due_s()) if has_room else 1.0
                try:
                    async with asyncio.timeout(max(wait_s, 0.001)):
                        await self._open.changed.wait()
                except TimeoutError:
                    continue

    def came_online(self, scooter_id: str) -> None:
        """What waits for this scooter goes out now, in order."""
        for command in self._open.of_scooter(scooter_id):
            waits = COMMANDS[command.command].waits
            if command.status is CommandStatus.QUEUED or (
                waits and command.status is CommandStatus.SENT
            ):
                self._open.schedule(command, self._open.now())

    def _line_up(self, group: asyncio.TaskGroup, command: OpenCommand) -> None:
        turn = self._turns.get(command.scooter_id)
        if turn is not None:
            turn.append(command)
            return
        self._turns[command.scooter_id] = deque([command])
        group.create_task(self._take_turns(command.scooter_id), name="send commands")

    async def _take_turns(self, scooter_id: str) -> None:
        turn = self._turns[scooter_id]
        try:
            while turn:
                await self.send(turn.popleft())
        finally:
            del self._turns[scooter_id]
            self._open.changed.set()  # there may be more than AT_ONCE

    async def send(self, command: OpenCommand) -> None:
        """One send, or the note to try again; nothing leaves once the command's time is up."""
        if not self._may_send(command, left_s=self._open.left_s(command)):
            return
        try:
            if not self._publisher.connected:
                raise ServerAway("broker", "the downlink is not connected")
            if self._is_stale(command):
                command.payload = None
            if await self._withholding.is_forbidden(command):
                return
            if command.payload is None and not await self._record(command):
                return
            await self._publish(command)
        except _AWAY as error:
            self._outage.away(str(error) or type(error).__name__)
            self._open.schedule(command, self._open.now() + AGAIN_S)
        else:
            self._outage.back()

    def _may_send(self, command: OpenCommand, *, left_s: float) -> bool:
        is_open = self._open.get(command.request_id) is command
        is_wanted = command.status in (CommandStatus.QUEUED, CommandStatus.SENT)
        return is_open and is_wanted and self._is_primary() and left_s >= LEFT_MIN_S

    def _is_stale(self, command: OpenCommand) -> bool:
        waits = COMMANDS[command.command].waits
        return waits and self._open.now() - command.recorded_at > STALE_S

    async def _record(self, command: OpenCommand) -> bool:
        """Write the next send down; False when it must not be."""
        facts = (await self._facts.read([command.scooter_id]))[command.scooter_id]
        rule, at = COMMANDS[command.command], self._open.now()
        if facts.is_away and rule.waits:
            return False  # it waits until the scooter comes online
        async with self._pool.acquire() as connection, ledger.transaction(connection):
            n = (await ledger.numbers(connection, [command.scooter_id]))[command.scooter_id]
            sending = self._envelope.sending(
                rule,
                facts,
                n=n,
                sends=command.sends + 1,
                left_s=self._open.left_s(command),
                at=at,
                before=(command.boot, command.exp),
            )
            if not rule.waits and command.sends and sending.boot != command.boot:
                return False  # a scooter that booted since may have carried it out before
            moved = await ledger.move(connection, [self._sent(command, sending, facts)])
        if not moved:
            self._open.forget(command.request_id)  # somebody closed it
            return False
        self._metrics.commands.labels(command=command.command, status=CommandStatus.SENT).inc()
        self._replies_wanted.set()
        command.status, command.sends = CommandStatus.SENT, moved[0].sends
        command.boot, command.exp, command.last_error = sending.boot, sending.exp, None
        command.recorded_at = at
        if sending.next_send_s is not None:
            self._open.schedule(command, self._open.now() + sending.next_send_s)
        command.payload = self._envelope.payload(
            sending,
            request_id=command.request_id,
            scooter_id=command.scooter_id,
            command=command.command,
            params=command.params,
        )
        return True

    def _sent(self, command: OpenCommand, sending: Sending, facts: Facts) -> Move:
        return Move(
            request_id=command.request_id,
            to=CommandStatus.SENT,
            by=self._by,
            detail="again" if command.sends else None,
            evidence={
                "n": sending.n,
                "boot": sending.boot,
                "exp": sending.exp,
                "presence": facts.presence,
                "send": command.sends + 1,
            },
            after=(command.status,),
            if_sends=command.sends,
            sending=sending,
        )

    async def _publish(self, command: OpenCommand) -> None:
        """Raises ServerAway when it did not leave; then `payload` is still there."""
        # Asked again, and of the very number that the broker is told: an expiry of 0 is none.
        left_s, payload = self._open.left_s(command), command.payload
        if payload is None or not self._may_send(command, left_s=left_s):
            return
        if await self._withholding.is_forbidden(command):
            return
        topic = topics.commands(command.scooter_id)
        try:
            published = await self._publisher.publish(
                topic, payload, qos=1, expiry_s=math.floor(left_s)
            )
        except PublishUnknown:
            command.payload, command.has_left = None, True  # a resend decides
            self._schedule_next(command)
            return
        command.payload = None
        if published is Published.NOBODY and not command.has_left:
            await self._withholding.nobody(command)
            return
        if published is Published.TAKEN:
            self._left(command)
        self._schedule_next(command)

    def _left(self, command: OpenCommand) -> None:
        command.has_left = True
        if command.sent_at is None:
            command.sent_at = self._open.now()
            if command.asked_at is not None:
                self._metrics.command_sent_seconds.observe(command.sent_at - command.asked_at)

    def _schedule_next(self, command: OpenCommand) -> None:
        """A first send is recorded with its request, so its resend is not scheduled yet."""
        if command.due == math.inf and command.status is CommandStatus.SENT:
            next_s = pause_s(COMMANDS[command.command], sends=command.sends)
            if next_s is not None:
                self._open.schedule(command, self._open.now() + next_s)
