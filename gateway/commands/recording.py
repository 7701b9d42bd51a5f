"""One transaction of requests: judged, recorded, and what they supersede or cancel closed."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from devices.contract.commands import CANCEL, COMMANDS, CommandStatus, Refusal, Request
from devices.standing import Standing
from gateway.commands import ledger
from gateway.commands.facts import NOTHING, Facts
from gateway.commands.judging import Circumstances, Policy, Verdict, judge
from gateway.commands.ledger_rows import Move, Moved, NewCommand, Sending
from gateway.commands.open_commands import OpenCommand, clock
from gateway.commands.sending import Envelope
from gateway.commands.wishes import NoWish, Wish, refusal, said_of


class Rights(Protocol):
    """The registry as far as requests ask it."""

    def standing(self, scooter_id: str) -> Standing | None: ...
    def tags(self, scooter_id: str) -> frozenset[str]: ...
    def may(self, login: str, command: str, tags: frozenset[str]) -> bool: ...
    def operator_of(self, login: str) -> str | None: ...


@dataclass(slots=True)
class Recorded:
    """What came of a round, once it is committed."""

    opened: list[OpenCommand] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    begun: list[tuple[str, CommandStatus]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    wish: Wish
    verdict: Verdict
    request_id: str


class Recorder:
    """Writes within the caller's transaction and promises nothing before its commit."""

    def __init__(self, *, rights: Rights, envelope: Envelope, policy: Policy) -> None:
        self._rights = rights
        self._envelope = envelope
        self._policy = policy

    async def refuse(self, connection: asyncpg.Connection, bad: Sequence[NoWish]) -> None:
        """Replies for what is no request, as far as there is somebody to reply to."""
        now_ms = await ledger.now_ms(connection)
        for each in bad:
            if each.asker is not None:
                body = refusal(each.said, each.detail, now_ms=now_ms)
                await ledger.tell(connection, each.asker.topic, each.asker.correlation, body)

    async def record(
        self, connection: asyncpg.Connection, wishes: Sequence[Wish], facts: Mapping[str, Facts]
    ) -> Recorded:
        """Of each scooter and each `ref` there is one wish at most.

        Raises UniqueViolationError when another gateway was faster: begin anew.
        """
        began_at = clock()  # before the ledger's clock is read, so that no deadline is later
        now_ms = await ledger.now_ms(connection)
        recorded = Recorded()
        fresh = await self._without_known(connection, wishes, now_ms)
        judged = [
            _Judged(
                wish=each,
                verdict=self._judge(each, facts.get(each.request.scooter_id, NOTHING), now_ms),
                request_id=secrets.token_hex(8),
            )
            for each in fresh
        ]
        accepted = [each for each in judged if _is_for_scooter(each)]
        sent = [each for each in accepted if each.verdict.status is CommandStatus.SENT]
        numbers = await ledger.numbers(connection, [each.wish.request.scooter_id for each in sent])
        recorded.moved += await self._supersede(connection, accepted)
        new = []
        for each in judged:
            n = numbers.get(each.wish.request.scooter_id) if each in sent else None
            command, opened = await self._begin(
                connection, each, recorded, facts=facts, n=n, now_ms=now_ms, began_at=began_at
            )
            new.append(command)
            recorded.begun.append((command.command, command.status))
            if opened is not None:
                recorded.opened.append(opened)
        await ledger.record(connection, new)
        return recorded

    async def _without_known(
        self, connection: asyncpg.Connection, wishes: Sequence[Wish], now_ms: int
    ) -> list[Wish]:
        """Those whose `ref` is new; for the others the story is told again, or a refusal."""
        known = await ledger.of_refs(
            connection, [(each.asker.login, each.request.ref) for each in wishes]
        )
        fresh = []
        for each in wishes:
            found = known.get((each.asker.login, each.request.ref))
            if found is None:
                fresh.append(each)
            elif found[0] == each.content:
                await ledger.tell_again(
                    connection,
                    found[1],
                    correlation=each.asker.correlation,
                    response_topic=each.asker.response_topic,
                )
            else:
                detail = f"{Refusal.REF_REUSED}: this ref was used for another request"
                body = refusal(said_of(each.request), detail, now_ms=now_ms)
                await ledger.tell(connection, each.asker.topic, each.asker.correlation, body)
        return fresh

    def _judge(self, wish: Wish, facts: Facts, now_ms: int) -> Verdict:
        request, login, rights = wish.request, wish.asker.login, self._rights
        tags = rights.tags(request.scooter_id)
        about = Circumstances(
            now_ms=now_ms,
            wall_ms=time.time_ns() // 1_000_000,
            standing=rights.standing(request.scooter_id),
            # Whether a cancel may be is seen when it is known what it cancels.
            has_right=request.command == CANCEL or rights.may(login, request.command, tags),
            facts=facts,
            policy=self._policy,
        )
        return judge(request, about)

    async def _supersede(
        self, connection: asyncpg.Connection, accepted: Sequence[_Judged]
    ) -> list[Moved]:
        newer = {each.wish.request.scooter_id: each for each in accepted}
        pairs = [(scooter_id, each.verdict.actuator) for scooter_id, each in newer.items()]
        older = await ledger.of_actuators(connection, pairs) if pairs else []
        moves = [
            Move(
                request_id=request_id,
                to=CommandStatus.SUPERSEDED,
                by=newer[scooter_id].wish.asker.login,
                detail=f"by {newer[scooter_id].request_id}",
                evidence={"by": newer[scooter_id].request_id},
            )
            for request_id, scooter_id in older
        ]
        return await ledger.move(connection, moves)

    async def _begin(
        self,
        connection: asyncpg.Connection,
        each: _Judged,
        recorded: Recorded,
        *,
        facts: Mapping[str, Facts],
        n: int | None,
        now_ms: int,
        began_at: float,
    ) -> tuple[NewCommand, OpenCommand | None]:
        wish, verdict = each.wish, each.verdict
        request = wish.request
        status, detail = verdict.status, verdict.detail
        if request.command == CANCEL and status is not CommandStatus.REFUSED:
            status, detail, moved = await self._cancel(connection, wish)
            recorded.moved += moved
        left_s = (verdict.expires_ms - now_ms) / 1000
        sending = None
        if n is not None:
            sending = self._envelope.sending(
                COMMANDS[request.command],
                facts.get(request.scooter_id, NOTHING),
                n=n,
                sends=1,
                left_s=left_s,
                wall_ms=time.time_ns() // 1_000_000,
            )
        command = NewCommand(
            request_id=each.request_id,
            operator=self._rights.operator_of(wish.asker.login) or "",
            login=wish.asker.login,
            ref=request.ref,
            content=wish.content,
            scooter_id=request.scooter_id,
            command=request.command,
            actuator=verdict.actuator,
            params=verdict.params,
            ttl_s=verdict.ttl_s,
            requested_ms=request.at,
            received_ms=now_ms,
            expires_ms=verdict.expires_ms,
            reason=request.reason,
            force=request.force,
            status=status,
            detail=detail,
            evidence=_evidence(facts.get(request.scooter_id, NOTHING), sending),
            sending=sending,
            correlation=wish.asker.correlation.hex() if wish.asker.correlation else None,
            response_topic=wish.asker.response_topic,
        )
        if status not in (CommandStatus.SENT, CommandStatus.QUEUED):
            return command, None
        return command, self._opened(command, began_at=began_at, left_s=left_s)

    def _opened(self, command: NewCommand, *, began_at: float, left_s: float) -> OpenCommand:
        opened = OpenCommand(
            request_id=command.request_id,
            scooter_id=command.scooter_id,
            command=command.command,
            params=dict(command.params),
            status=command.status,
            deadline=began_at + left_s,
            has_left=False,
            asked_at=began_at,
        )
        if command.sending is not None:
            opened.sends, opened.boot, opened.due = 1, command.sending.boot, began_at
            opened.payload = self._envelope.payload(
                command.sending,
                request_id=command.request_id,
                scooter_id=command.scooter_id,
                command=command.command,
                params=command.params,
            )
        return opened

    async def _cancel(
        self, connection: asyncpg.Connection, wish: Wish
    ) -> tuple[CommandStatus, str, list[Moved]]:
        """A command that still waits is cancelled; what was sent cannot be called back."""
        request, login = wish.request, wish.asker.login
        target_id = str(request.params["request_id"])
        target = (await ledger.known(connection, [target_id])).get(target_id)
        if target is None or target.scooter_id != request.scooter_id:
            detail = f"{Refusal.BAD_PARAMS}: {request.scooter_id} has no command {target_id}"
            return CommandStatus.REFUSED, detail, []
        tags = self._rights.tags(target.scooter_id)
        is_own = target.operator == self._rights.operator_of(login)
        if not (is_own or self._rights.may(login, target.command, tags)):
            detail = f"{Refusal.NO_RIGHT}: this key may not {target.command} this scooter"
            return CommandStatus.REFUSED, detail, []
        move = Move(request_id=target_id, to=CommandStatus.CANCELLED, by=login)
        moved = await ledger.move(connection, [move])
        if not moved:
            detail = f"{Refusal.NOT_WAITING}: {target_id} is {target.status} already"
            return CommandStatus.REFUSED, detail, []
        return CommandStatus.SUCCEEDED, f"cancelled {target_id}", moved


def _is_for_scooter(each: _Judged) -> bool:
    is_accepted = each.verdict.status is not CommandStatus.REFUSED
    return is_accepted and each.wish.request.command != CANCEL


def _evidence(facts: Facts, sending: Sending | None) -> dict[str, object]:
    """What a person needs to understand the verdict; never a position."""
    evidence: dict[str, object] = {
        "presence": facts.presence,
        "lock": facts.lock,
        "battery_percent": facts.battery_percent,
    }
    if sending is not None:
        evidence |= {"n": sending.n, "boot": sending.boot, "exp": sending.exp}
    return {name: value for name, value in evidence.items() if value is not None}


def one_each(wishes: Sequence[Wish]) -> list[list[Wish]]:
    """Rounds in which each scooter and each `ref` comes once, in the order of arrival."""
    rounds: list[list[Wish]] = []
    first: dict[object, int] = {}
    for wish in wishes:
        request: Request = wish.request
        keys = (request.scooter_id, (wish.asker.login, request.ref))
        number = max((first.get(key, 0) for key in keys), default=0)
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(wish)
        for key in keys:
            first[key] = number + 1
    return rounds
