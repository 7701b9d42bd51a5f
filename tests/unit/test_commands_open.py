"""Open commands: due in order, forgotten for good, overdue by a clock that never steps."""

import math

from hypothesis import given
from hypothesis import strategies as st

from devices.contract.commands import COMMANDS, CommandStatus
from gateway.commands.ledger_rows import StillOpen
from gateway.commands.open_commands import OpenCommand, OpenCommands, taken_up
from gateway.commands.sending import PAUSE_MAX_S, pause_s


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def command(request_id: str = "1", *, deadline: float = 2000.0, due: float = 1000.0) -> OpenCommand:
    return OpenCommand(
        request_id=request_id,
        scooter_id="SC-0001",
        command="lock",
        login="alice.laptop",
        params={},
        status=CommandStatus.SENT,
        deadline=deadline,
        due=due,
    )


def taken(open_commands: OpenCommands) -> list[str]:
    found = []
    while each := open_commands.take_due():
        found.append(each.request_id)
    return found


@given(dues=st.lists(st.floats(900, 1100), max_size=20))
def test_what_is_due_comes_in_order_and_once(dues: list[float]) -> None:
    clock = Clock()
    open_commands = OpenCommands(now=clock)
    for number, due in enumerate(dues):
        open_commands.add(command(str(number), due=due))
    before = taken(open_commands)
    assert [dues[int(each)] for each in before] == sorted(due for due in dues if due <= 1000)
    clock.at = 1200
    assert len(before) + len(taken(open_commands)) == len(dues)
    assert open_commands.next_due_s() == math.inf


def test_only_the_last_schedule_counts() -> None:
    clock = Clock()
    open_commands = OpenCommands(now=clock)
    it = command(due=1005.0)
    open_commands.add(it)
    open_commands.schedule(it, 1010.0)
    clock.at = 1007
    assert taken(open_commands) == []
    clock.at = 1010
    assert taken(open_commands) == ["1"]


def test_what_is_forgotten_is_not_sent() -> None:
    open_commands = OpenCommands(now=Clock())
    open_commands.add(command())
    assert open_commands.forget("1") is not None
    assert open_commands.forget("1") is None
    assert taken(open_commands) == []
    assert open_commands.of_scooter("SC-0001") == []


def test_overdue_waits_a_moment_for_an_answer_but_not_for_what_was_never_sent() -> None:
    clock = Clock()
    open_commands = OpenCommands(now=clock)
    sent, queued = command("sent", deadline=1010.0), command("queued", deadline=1010.0)
    queued.status = CommandStatus.QUEUED
    open_commands.add(sent)
    open_commands.add(queued)
    clock.at = 1011
    assert open_commands.overdue(grace_s=3) == [queued]
    clock.at = 1013
    assert open_commands.overdue(grace_s=3) == [sent, queued]


def test_what_is_taken_up_counts_from_before_the_ledger_was_asked() -> None:
    row = StillOpen(
        request_id="1",
        scooter_id="SC-0001",
        command="lock",
        login="alice.laptop",
        params={},
        status=CommandStatus.SENT,
        sends=1,
        boot=7,
        exp=99,
        last_error=None,
        left_s=12.5,
        next_send_s=-3.0,
    )
    found = taken_up(row, 1000.0)
    assert (found.deadline, found.due, found.has_left) == (1012.5, 1000.0, True)
    assert (found.boot, found.exp) == (7, 99)
    waiting = taken_up(row._replace(status=CommandStatus.QUEUED), 1000.0)
    assert (waiting.due, waiting.has_left) == (math.inf, False)


def test_resends_fit_into_the_time_of_each_command() -> None:
    for name, rule in COMMANDS.items():
        pauses = [pause_s(rule, sends=sends) for sends in range(1, rule.resends + 2)]
        assert pauses[-1] is None, name
        given_pauses = [each for each in pauses if each is not None]
        assert len(given_pauses) == rule.resends
        assert sum(given_pauses) < rule.ttl_s
        assert all(each <= PAUSE_MAX_S for each in given_pauses)
