from typing import cast

import orjson
import pytest

from devices.contract.commands import CommandStatus, Reply
from gateway.console.commanding_order import Errand, Order, Tally
from gateway.console.commanding_view import (
    JsonLines,
    Moves,
    tell_interrupted,
    tell_many,
    tell_recorded,
)

S = CommandStatus
IDS = ("SC-0001", "SC-0002", "SC-0003")


def errands(*statuses: CommandStatus | None, asked: int = 3) -> list[Errand]:
    """Of one order; None: nobody answered yet."""
    order = Order(command="lock", scooter_ids=IDS)
    found = [Errand(order, each) for each, _ in zip(IDS, statuses, strict=False)]
    for each, status in list(zip(found, statuses, strict=True))[:asked]:
        each.ask(now=10.0, now_ms=1_767_268_800_000)
        if status is not None:
            each.hear(reply(status), now=10.5)
    return found


def reply(status: CommandStatus, **members: object) -> Reply:
    body = {"status": status, "move": 1, "request_id": "0123456789abcdef", "at": 1_767_268_800_123}
    return cast(Reply, body | members)


def test_a_person_reads_a_line_a_move_that_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (errand,) = errands(None)
    failed = reply(S.FAILED, detail="jam\x1b[31med")
    errand.hear(failed, now=10.25)

    Moves().moved(errand, failed, now=10.25)

    assert capsys.readouterr().out == "SC-0001  lock  failed        0.250 s  jam\\x1b[31med\n"


def test_a_program_reads_an_object_a_move_and_one_for_what_nobody_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done, silent = errands(S.SUCCEEDED, None)
    silent.give_up(now=75.0)
    view = JsonLines()
    view.moved(done, reply(S.SUCCEEDED), now=10.5)
    view.ended(done, ended=1)
    view.ended(silent, ended=2)

    first, second = map(orjson.loads, capsys.readouterr().out.splitlines())

    assert (first["status"], first["at"]) == ("succeeded", "2026-01-01T12:00:00.123Z")
    assert (first["move"], first["elapsed_s"], first["final"]) == (1, 0.5, True)
    assert (second["status"], second["move"], second["final"]) == ("unanswered", None, True)
    assert second["detail"] == "no gateway answered"


def test_of_many_only_those_are_listed_that_did_not_succeed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_ = errands(S.SUCCEEDED, S.REFUSED, S.SUCCEEDED)
    tally = Tally(all_[0].order)
    for each in all_:
        tally.add(each)

    tell_many(all_[0].order, all_, tally, took_s=1.25)

    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["scooter_id", "SC-0002"]
    assert said.err == "lock of 3 scooters: 2 succeeded, 1 refused in 1.2 s\n"


def test_an_interruption_tells_what_goes_on_and_how_to_follow_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for found in (errands(S.SENT), errands(None), errands(None, asked=0), errands(S.SUCCEEDED)):
        tell_interrupted(found)
    several = errands(S.SENT, S.SENT, None, asked=2)
    tell_interrupted(several)

    lines = capsys.readouterr().err.splitlines()
    assert "is sent and goes on without you" in lines[0]
    assert "`scooter commands follow 0123456789abcdef`" in lines[0]
    assert "its ref is " in lines[1]
    assert lines[2].startswith("interrupted: 2 commands go on without you")
    assert "`scooter commands list --since 2026-01-01T11:59:00.000Z`" in lines[2]
    assert lines[3:] == [
        "ended so far: none",
        "1 of 3 scooters were not asked for",
    ]


def test_how_to_follow_what_nobody_waits_for_is_told_while_it_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    under_way, over, silent = errands(S.SENT, S.SUCCEEDED, None)
    for each in (under_way, over, silent):
        tell_recorded(each)

    assert capsys.readouterr().err == (
        "it goes on: `scooter commands follow 0123456789abcdef` tells its end\n"
    )
