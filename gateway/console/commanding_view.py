"""What a person, or a program, sees of commands: each move as it comes, or how many ended how."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from devices.console.output import print_json_line, print_table, printable, talk, write
from devices.console.spans import rfc3339
from devices.contract.commands import Reply
from gateway.console.commanding_order import Errand, Order, Tally


class View(Protocol):
    """Told of each move, and of each end that no gateway told."""

    def moved(self, errand: Errand, reply: Reply, *, now: float) -> None: ...

    def ended(self, errand: Errand, *, ended: int) -> None: ...


class Moves:
    """One scooter for a person: a line a move, with the seconds since the request."""

    def moved(self, errand: Errand, reply: Reply, *, now: float) -> None:
        del reply  # the errand has it
        self._say(errand, now)

    def ended(self, errand: Errand, *, ended: int) -> None:
        del ended
        if errand.fate is not None:
            self._say(errand, errand.ended_at)

    def _say(self, errand: Errand, now: float) -> None:
        took = f"{now - errand.asked_at:.3f} s"
        detail = printable(errand.detail or "")
        line = f"{errand.scooter_id}  {errand.order.command}  {errand.outcome:<10}  {took:>9}"
        write(f"{line}  {detail}".rstrip() + "\n", at_once=True)


class JsonLines:
    """For a program: one object a move; `final` marks the last one of each scooter."""

    def moved(self, errand: Errand, reply: Reply, *, now: float) -> None:
        at = reply.get("at")
        self._print(
            errand,
            at=None if at is None else datetime.fromtimestamp(at / 1000, UTC),
            move=reply.get("move"),
            elapsed_s=now - errand.asked_at,
        )

    def ended(self, errand: Errand, *, ended: int) -> None:
        del ended
        if errand.fate is not None:
            elapsed_s = errand.ended_at - errand.asked_at if errand.payload else None
            self._print(errand, at=None, move=None, elapsed_s=elapsed_s)

    def _print(
        self, errand: Errand, *, at: datetime | None, move: int | None, elapsed_s: float | None
    ) -> None:
        print_json_line(
            {
                "ref": errand.ref,
                "request_id": errand.request_id,
                "scooter_id": errand.scooter_id,
                "command": errand.order.command,
                "status": errand.outcome,
                "at": at,
                "move": move,
                "detail": errand.detail,
                "elapsed_s": None if elapsed_s is None else round(elapsed_s, 3),
                "final": errand.outcome_is_final,
            }
        )


class Bar:
    """Many scooters for a person: how many ended; in the end those that did not succeed."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def moved(self, errand: Errand, reply: Reply, *, now: float) -> None:
        """One line a move would be too many."""

    def ended(self, errand: Errand, *, ended: int) -> None:
        del errand
        self._advance(ended)


def tell_many(order: Order, errands: Sequence[Errand], tally: Tally, *, took_s: float) -> None:
    """What is not as it should be as a table, and the numbers as talk."""
    bad = [each for each in errands if not each.is_good]
    if bad and not order.as_json:
        print_table(
            ("scooter_id", "status", "request_id", "detail"),
            [(each.scooter_id, each.outcome, each.request_id, each.detail) for each in bad],
        )
        write("", at_once=True)
    said = ", ".join(f"{count} {outcome}" for outcome, count in tally.counts.most_common())
    talk(f"{order.command} of {len(errands)} scooters: {said or 'none asked'} in {took_s:.1f} s")


def tell_recorded(errand: Errand) -> None:
    """How to hear of the end that nobody waited for."""
    if errand.request_id is not None and not errand.outcome_is_final:
        talk(f"it goes on: `scooter commands follow {errand.request_id}` tells its end")


def tell_interrupted(errands: Sequence[Errand]) -> None:
    """What goes on without us, and how to hear of it; nothing where nothing was asked for."""
    if not any(each.payload for each in errands):
        return
    asked = [each for each in errands if each.payload and not each.outcome_is_final]
    if len(asked) == 1:
        (one,) = asked
        name = f"{one.order.command} of {one.scooter_id}"
        if one.request_id is None:
            talk(f"interrupted: {name} was asked for and nobody answered yet; its ref is {one.ref}")
        else:
            talk(
                f"interrupted: {name} is {one.status} and goes on without you; "
                f"`scooter commands follow {one.request_id}` tells its end"
            )
    elif asked:
        # The ledger's clock may be behind ours.
        began = datetime.fromtimestamp(min(each.asked_ms for each in asked) / 1000, UTC)
        since = rfc3339(began - timedelta(minutes=1))
        talk(
            f"interrupted: {len(asked)} commands go on without you; "
            f"`scooter commands list --since {since}` tells of them"
        )
    if len(errands) > 1:
        ended = Counter(each.outcome for each in errands if each.outcome_is_final)
        said = ", ".join(f"{count} {outcome}" for outcome, count in ended.most_common())
        talk(f"ended so far: {said or 'none'}")
    if left := sum(not each.payload for each in errands):
        talk(f"{left} of {len(errands)} scooters were not asked for")
