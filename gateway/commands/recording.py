"""One transaction of requests: judged, recorded, and what they supersede or cancel closed."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from devices.contract.commands import CANCEL, COMMANDS, CommandStatus, Refusal, Request
from gateway.commands import ledger
from gateway.commands.cancelling import Rights, cancel
from gateway.commands.facts import NOTHING, Facts
from gateway.commands.judging import Circumstances, Policy, Verdict, judge
from gateway.commands.ledger_rows import Move, Moved, NewCommand, Sending
from gateway.commands.lifecycle import is_open
from gateway.commands.open_commands import OpenCommand, clock
from gateway.commands.sending import Envelope
from gateway.commands.wishes import NoWish, Wish, refusal, said_of


@dataclass(slots=True)
class Recorded:
    """What came of a round, once it is committed."""

    opened: list[OpenCommand] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    begun: list[tuple[str, CommandStatus]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """One moment on two clocks: this process's, and the ledger's (read last).

    Deadlines count from here, however long the transaction takes.
    """

    at: float
    ledger_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    wish: Wish
    verdict: Verdict
    request_id: str


class Recorder:
    """Writes within the caller's transaction and promises nothing before its commit."""

    def __init__(
        self,
        *,
        rights: Rights,
        envelope: Envelope,
        policy: Policy,
        now: Callable[[], float] = clock,
    ) -> None:
        self._rights = rights
        self._envelope = envelope
        self._policy = policy
        self._now = now

    async def refuse(self, connection: asyncpg.Connection, bad: Sequence[NoWish]) -> Recorded:
        """Replies for what is no request, as far as there is somebody to reply to."""
        now_ms = await ledger.now_ms(connection)
        for each in bad:
            if each.asker is not None:
                body = refusal(each.said, each.detail, now_ms=now_ms)
                await ledger.tell(connection, each.asker.topic, each.asker.correlation, body)
        return Recorded()

    async def record(
        self, connection: asyncpg.Connection, wishes: Sequence[Wish], facts: Mapping[str, Facts]
    ) -> Recorded:
        """Of each scooter and each `ref` there is one wish at most.

        Raises UniqueViolationError when another gateway was faster: begin anew.
        """
        at = self._now()
        # First of all, so that whoever else records for one of these scooters waits here.
        numbers = await ledger.numbers(connection, [*filter(self._is_known, _scooters(wishes))])
        before = await ledger.before_requests(
            connection,
            [(each.asker.login, each.request.ref) for each in wishes],
            _scooters(wishes),
        )
        moment = _Moment(at=at, ledger_ms=before.now_ms)
        recorded = Recorded()
        judged = [
            _Judged(
                wish=each,
                verdict=self._judge(each, facts.get(each.request.scooter_id, NOTHING), moment),
                request_id=secrets.token_hex(8),
            )
            for each in await self._without_known(connection, wishes, before)
        ]
        recorded.moved += await self._supersede(connection, judged, before)
        new = [
            await self._begin(
                connection,
                each,
                recorded,
                facts=facts.get(each.wish.request.scooter_id, NOTHING),
                n=numbers.get(each.wish.request.scooter_id, 0),
                moment=moment,
            )
            for each in judged
        ]
        await ledger.record(connection, new)
        return recorded

    def _is_known(self, scooter_id: str) -> bool:
        return self._rights.standing(scooter_id) is not None

    async def _without_known(
        self, connection: asyncpg.Connection, wishes: Sequence[Wish], before: ledger.Before
    ) -> list[Wish]:
        """Those whose `ref` is new; for the others the story is told again, or a refusal."""
        fresh = []
        for each in wishes:
            found = before.refs.get((each.asker.login, each.request.ref))
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
                body = refusal(said_of(each.request), detail, now_ms=before.now_ms)
                await ledger.tell(connection, each.asker.topic, each.asker.correlation, body)
        return fresh

    def _judge(self, wish: Wish, facts: Facts, moment: _Moment) -> Verdict:
        request, login, rights = wish.request, wish.asker.login, self._rights
        tags = rights.tags(request.scooter_id)
        about = Circumstances(
            now_ms=moment.ledger_ms,
            at=moment.at,
            standing=rights.standing(request.scooter_id),
            # Whether a cancel may be is seen when it is known what it cancels.
            has_right=request.command == CANCEL or rights.may(login, request.command, tags),
            facts=facts,
            policy=self._policy,
        )
        return judge(request, about)

    async def _supersede(
        self, connection: asyncpg.Connection, judged: Sequence[_Judged], before: ledger.Before
    ) -> list[Moved]:
        moves = []
        for each in judged:
            older = before.still_open.get((each.wish.request.scooter_id, each.verdict.actuator))
            if older is not None and _is_for_scooter(each):
                moves.append(
                    Move(
                        request_id=older,
                        to=CommandStatus.SUPERSEDED,
                        by=each.wish.asker.login,
                        detail=f"by {each.request_id}",
                        evidence={"by": each.request_id},
                    )
                )
        return await ledger.move(connection, moves)

    async def _begin(
        self,
        connection: asyncpg.Connection,
        each: _Judged,
        recorded: Recorded,
        *,
        facts: Facts,
        n: int,
        moment: _Moment,
    ) -> NewCommand:
        """The row to write; what becomes of it in this process goes to `recorded`."""
        request, verdict = each.wish.request, each.verdict
        left_s = (verdict.expires_ms - moment.ledger_ms) / 1000
        if request.command == CANCEL and verdict.status is not CommandStatus.REFUSED:
            cancelled = await cancel(connection, each.wish, self._rights)
            recorded.moved += cancelled.moved
            verdict = replace(verdict, status=cancelled.status, detail=cancelled.detail)
        sending = None
        if _is_for_scooter(each) and verdict.status is CommandStatus.SENT:
            rule = COMMANDS[request.command]
            sending = self._envelope.sending(rule, facts, n=n, sends=1, left_s=left_s, at=moment.at)
        command = self._row(each, verdict, facts=facts, sending=sending, moment=moment)
        recorded.begun.append((command.command, command.status))
        if is_open(command.status):
            recorded.opened.append(self._opened(command, began_at=moment.at, left_s=left_s))
        return command

    def _row(
        self,
        each: _Judged,
        verdict: Verdict,
        *,
        facts: Facts,
        sending: Sending | None,
        moment: _Moment,
    ) -> NewCommand:
        request, asker = each.wish.request, each.wish.asker
        return NewCommand(
            request_id=each.request_id,
            operator=self._rights.operator_of(asker.login) or "",
            login=asker.login,
            ref=request.ref,
            content=each.wish.content,
            scooter_id=request.scooter_id,
            command=request.command,
            actuator=verdict.actuator,
            params=verdict.params,
            ttl_s=verdict.ttl_s,
            requested_ms=request.at,
            received_ms=moment.ledger_ms,
            expires_ms=verdict.expires_ms,
            reason=request.reason,
            force=request.force,
            status=verdict.status,
            detail=verdict.detail,
            evidence=_evidence(facts, sending),
            sending=sending,
            correlation=asker.correlation.hex() if asker.correlation else None,
            response_topic=asker.response_topic,
        )

    def _opened(self, command: NewCommand, *, began_at: float, left_s: float) -> OpenCommand:
        opened = OpenCommand(
            request_id=command.request_id,
            scooter_id=command.scooter_id,
            command=command.command,
            login=command.login,
            params=dict(command.params),
            status=command.status,
            deadline=began_at + left_s,
            has_left=False,
            asked_at=began_at,
        )
        if command.sending is not None:  # it is recorded here, so it can leave at once
            opened.sends, opened.due, opened.recorded_at = 1, began_at, began_at
            opened.boot, opened.exp = command.sending.boot, command.sending.exp
            opened.payload = self._envelope.payload(
                command.sending,
                request_id=command.request_id,
                scooter_id=command.scooter_id,
                command=command.command,
                params=command.params,
            )
        return opened


def _scooters(wishes: Sequence[Wish]) -> list[str]:
    return [each.request.scooter_id for each in wishes]


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
