"""The open commands of this process, with their deadlines on a clock that never steps."""

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from devices.contract.commands import CommandStatus
from gateway.commands.ledger_rows import StillOpen


def clock() -> float:
    """Seconds on a clock that also runs while the machine sleeps: monotonic on Linux does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, kw_only=True)
class OpenCommand:
    """One open command. `deadline` and `due` (the next send) are in `clock` seconds.

    `payload` was recorded at `recorded_at` and is ready to be published; None wants a send to be
    recorded first. `login` is the operator's key that asked.
    `has_left` is whether the broker may ever have had it.
    """

    request_id: str
    scooter_id: str
    command: str
    login: str
    params: dict[str, Any]
    status: CommandStatus
    deadline: float
    due: float = math.inf
    sends: int = 0
    boot: int | None = None
    exp: int | None = None
    last_error: str | None = None
    payload: bytes | None = field(default=None, repr=False)
    recorded_at: float = -math.inf
    has_left: bool = True
    asked_at: float | None = None
    sent_at: float | None = None


class OpenCommands:
    """By id and by scooter, and the order in which they are due."""

    def __init__(self, *, now: Callable[[], float] = clock) -> None:
        self.now = now
        self._by_id: dict[str, OpenCommand] = {}
        self._by_scooter: dict[str, dict[str, None]] = {}
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self.changed = asyncio.Event()
        """Set when something became due earlier than whoever waits knows."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[OpenCommand]:
        return iter(list(self._by_id.values()))

    def get(self, request_id: str) -> OpenCommand | None:
        return self._by_id.get(request_id)

    def of_scooter(self, scooter_id: str) -> list[OpenCommand]:
        """In the order of issue."""
        return [self._by_id[each] for each in self._by_scooter.get(scooter_id, ())]

    def add(self, command: OpenCommand) -> None:
        """Keep it, and send it when it is due."""
        self._by_id[command.request_id] = command
        self._by_scooter.setdefault(command.scooter_id, {})[command.request_id] = None
        self.schedule(command, command.due)

    def left_s(self, command: OpenCommand) -> float:
        """Seconds until nobody may obey it any more."""
        return command.deadline - self.now()

    def schedule(self, command: OpenCommand, due: float) -> None:
        """The next send; `inf` for none until something happens."""
        command.due = due
        if due < math.inf:
            heapq.heappush(self._due, (due, next(self._order), command.request_id))
            self.changed.set()

    def forget(self, request_id: str) -> OpenCommand | None:
        """It is open no more."""
        command = self._by_id.pop(request_id, None)
        if command is not None:
            ids = self._by_scooter[command.scooter_id]
            ids.pop(request_id, None)
            if not ids:
                del self._by_scooter[command.scooter_id]
        return command

    def clear(self) -> None:
        """Somebody else carries on with them."""
        self._by_id.clear()
        self._by_scooter.clear()
        self._due.clear()

    def take_due(self) -> OpenCommand | None:
        """The next one that is due now; its next send is then unscheduled."""
        while self._due and self._due[0][0] <= self.now():
            due, _, request_id = heapq.heappop(self._due)
            command = self._by_id.get(request_id)
            if command is not None and command.due == due:
                command.due = math.inf
                return command
        return None

    def next_due_s(self) -> float:
        """Seconds until the next may be due."""
        return max(0.0, self._due[0][0] - self.now()) if self._due else math.inf

    def overdue(self, *, grace_s: float) -> list[OpenCommand]:
        """Those whose time is up; a scooter's answer is waited for `grace_s` longer."""
        now = self.now()
        return [
            each
            for each in self._by_id.values()
            if each.deadline + (0.0 if each.status is CommandStatus.QUEUED else grace_s) <= now
        ]


def taken_up(row: StillOpen, asked_at: float) -> OpenCommand:
    """An open command as the ledger has it, its times counted from before it was asked."""
    due = math.inf
    if row.status is CommandStatus.SENT and row.next_send_s is not None:
        due = asked_at + max(0.0, row.next_send_s)
    return OpenCommand(
        request_id=row.request_id,
        scooter_id=row.scooter_id,
        command=row.command,
        login=row.login,
        params=row.params,
        status=row.status,
        deadline=asked_at + row.left_s,
        due=due,
        sends=row.sends,
        boot=row.boot,
        exp=row.exp,
        last_error=row.last_error,
        has_left=row.status is not CommandStatus.QUEUED,
    )
