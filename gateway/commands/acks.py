"""The scooter's answer moves the command and the state in the same step."""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import asyncpg
import orjson
import structlog

from devices.contract import topics
from devices.contract.commands import COMMANDS, CommandStatus
from devices.contract.topics import Uplink
from gateway.commands import ledger
from gateway.commands.acks_stream import AcksStream, ScooterAck
from gateway.commands.ledger_rows import Known, Move, Moved
from gateway.commands.lifecycle import OPEN, answered, before, is_open, is_retried
from gateway.commands.open_commands import OpenCommands
from gateway.commands.sending import RETRY_S
from gateway.links.delivery import Delivery
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY
from gateway.telemetry.entries import Entry, reject
from gateway.telemetry.state_store import Advanced

log = structlog.get_logger()

RECORD_WITHIN_S: Final = 3.0
"""After this Postgres counts as away and acks wait in Redis."""

AWAY_S: Final = 2.0
"""And so long it is not asked again: many batches of acks come meanwhile."""

RETAINED: Final = "retained"
"""What a scooter answers to a command that came with the retained flag: nobody sends such."""

_EVIDENCE: Final = ("status", "error", "boot", "seq", "ts", "up", "lock")


def ack_of(scooter_id: str, message: dict[str, Any]) -> ScooterAck:
    """What the ledger needs of a decoded ack."""
    body = {name: message[name] for name in _EVIDENCE if message.get(name) is not None}
    return ScooterAck(scooter_id, message["request_id"], body)


class States(Protocol):
    """Where a batch is kept, all of it in one round trip."""

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced: ...


class AckedStates:
    """The states for the control session: an ack moves its command, too, before it is settled.

    An ack for a command that this scooter was never sent changes nothing and is a reject. While
    Postgres is away nobody can tell, so acks move the state and wait in Redis for the rest.
    """

    def __init__(
        self,
        states: States,
        acks: "Acks",
        *,
        births: Callable[[str], None],
    ) -> None:
        self._states = states
        self._acks = acks
        self._births = births

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced:
        """As `StateStore.advance`."""
        acks = [ack_of(each["id"], each["m"]) for each in entries if each["k"] == "ack"]
        acks = self._acks.without_retained(acks)
        foreign = await self._acks.foreign(acks) if acks else frozenset()
        for each in entries if foreign else ():
            if each["k"] == "ack" and (each["id"], each["m"]["request_id"]) in foreign:
                _make_reject(each)
                self._acks.count_foreign(1)
        advanced = await self._states.advance(entries, received_ms=received_ms)
        if acks:
            real = [each for each in acks if (each.scooter_id, each.request_id) not in foreign]
            await self._acks.record(real)
        for each in entries:
            if each["k"] == "status" and each["m"].get("s") == "online" and not each["r"]:
                self._births(each["id"])
        return advanced


class Acks:
    """Records acks: in Postgres, or in a Redis stream until Postgres is back."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        stream: AcksStream,
        *,
        open_commands: OpenCommands,
        replies_wanted: asyncio.Event,
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._stream = stream
        self._open = open_commands
        self._replies_wanted = replies_wanted
        self._metrics = metrics
        self._outage = Outage("ledger, so acks wait in redis")
        self._away_until = -math.inf

    async def foreign(self, acks: Sequence[ScooterAck]) -> frozenset[tuple[str, str]]:
        """Scooter and request_id of those that answer nothing the scooter was sent.

        None of them while Postgres is away.
        """
        unknown = [each for each in acks if not self._is_open(each)]
        if not unknown or self._is_away():
            return frozenset()
        try:
            async with asyncio.timeout(RECORD_WITHIN_S):
                known = await ledger.known(self._pool, [each.request_id for each in unknown])
        except AWAY as error:
            self._tell_away(error)
            return frozenset()
        return frozenset(
            (each.scooter_id, each.request_id) for each in unknown if not _is_own(each, known)
        )

    def without_retained(self, acks: Sequence[ScooterAck]) -> list[ScooterAck]:
        """The answer to a retained copy, which is counted, says nothing of the command itself."""
        left = [each for each in acks if each.error != RETAINED]
        self._metrics.commands_retained.inc(len(acks) - len(left))
        return left

    async def record(self, acks: Sequence[ScooterAck]) -> None:
        """Move the commands; raises ServerAway when neither Postgres nor Redis keeps the acks."""
        if not self._is_away():
            try:
                async with asyncio.timeout(RECORD_WITHIN_S):
                    await self._move(acks)
            except AWAY as error:
                self._tell_away(error)
            else:
                self._outage.back()
                return
        await self._stream.append(acks)

    def _is_away(self) -> bool:
        """Whether it was a moment ago: statuses behind an ack shall not wait for it each time."""
        return asyncio.get_running_loop().time() < self._away_until

    def _tell_away(self, error: BaseException) -> None:
        self._outage.away(str(error) or type(error).__name__)
        self._away_until = asyncio.get_running_loop().time() + AWAY_S

    async def drain(self) -> bool:
        """Take what waits in Redis into Postgres; whether there may be more.

        Raises what the driver raises while Postgres is away, and ServerAway.
        """
        page = await self._stream.read()
        if page:
            acks = [ack for _, ack in page]
            known = await ledger.known(self._pool, [each.request_id for each in acks])
            real = [each for each in acks if _is_own(each, known)]
            self.count_foreign(len(acks) - len(real))
            await self._move(real)
            await self._stream.remove([entry_id for entry_id, _ in page])
        return bool(page)

    def count_foreign(self, number: int) -> None:
        """An ack for another scooter's command, or for one that nobody sent."""
        if number:
            self._metrics.acks_foreign.inc(number)
            log.warning("acks for commands that were never sent to them", acks=number)

    async def _move(self, acks: Sequence[ScooterAck]) -> None:
        """In their order, as many in a transaction as there are different commands."""
        for wanted in _one_each(acks):
            async with self._pool.acquire() as connection, ledger.transaction(connection):
                known = await ledger.known(connection, [each.request_id for each in wanted])
                moves = [
                    move
                    for each in wanted
                    if each.request_id in known
                    and (move := _move_of(each, known[each.request_id])) is not None
                ]
                moved = await ledger.move(connection, moves)
            self._take(wanted, moves, moved)

    def _take(
        self, acks: Sequence[ScooterAck], moves: Sequence[Move], moved: Sequence[Moved]
    ) -> None:
        self._replies_wanted.set()
        made = {each.request_id: each for each in moves}
        self._metrics.acks_without_effect.inc(len(acks) - len(moved))
        for each in moved:
            self._metrics.commands.labels(command=each.command, status=each.status).inc()
            self._close(each, made[each.request_id])

    def _close(self, moved: Moved, move: Move) -> None:
        command = self._open.get(moved.request_id)
        if command is None:
            return
        command.status, command.last_error = moved.status, move.last_error
        if move.next_send_s is not None:
            command.payload = None
            self._open.schedule(command, self._open.now() + move.next_send_s)
        elif moved.status not in OPEN:
            self._open.forget(moved.request_id)
            if command.sent_at is not None:
                self._metrics.command_result_seconds.observe(self._open.now() - command.sent_at)

    def _is_open(self, ack: ScooterAck) -> bool:
        command = self._open.get(ack.request_id)
        return command is not None and command.scooter_id == ack.scooter_id and command.sends > 0


def _make_reject(entry: Entry) -> None:
    """In place: whoever settles the batch is to see what became of it."""
    topic = topics.uplink(entry["id"], Uplink.ACKS)
    payload = orjson.dumps(entry["m"])
    made = reject(Delivery(topic, payload), "ack: no such command was sent here", why="ack")
    entry.clear()
    entry.update(made)


def _is_own(ack: ScooterAck, known: dict[str, Known]) -> bool:
    command = known.get(ack.request_id)
    return command is not None and command.scooter_id == ack.scooter_id and command.sends > 0


def _move_of(ack: ScooterAck, command: Known) -> Move | None:
    status, by = ack.body["status"], f"scooter:{ack.scooter_id}"
    rule = COMMANDS[command.command]
    if is_open(command.status) and is_retried(rule, status, ack.error, left_s=command.left_s):
        if command.last_error is not None:
            return None  # it came again: the next try is due already
        return Move(
            request_id=ack.request_id,
            to=CommandStatus.SENT,
            by=by,
            detail=f"{ack.error}: it is tried again",
            evidence=ack.body,
            after=(CommandStatus.SENT, CommandStatus.RECEIVED),
            next_send_s=RETRY_S,
            last_error=ack.error,
        )
    to = answered(status)
    return Move(
        request_id=ack.request_id,
        to=to,
        by=by,
        detail=ack.error if to is not CommandStatus.RECEIVED else None,
        evidence=ack.body,
        # What waits again was sent to nobody, so nobody can have answered it.
        after=[each for each in before(to) if each is not CommandStatus.QUEUED],
    )


def _one_each(acks: Iterable[ScooterAck]) -> list[list[ScooterAck]]:
    """Rounds in which each command is answered once, in the order of arrival."""
    rounds: list[list[ScooterAck]] = []
    seen: dict[str, int] = {}
    for ack in acks:
        number = seen.get(ack.request_id, 0)
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(ack)
        seen[ack.request_id] = number + 1
    return rounds
