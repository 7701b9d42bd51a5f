"""What `scooter lock` and the like do: ask with an operator's key, follow, tell how it ended."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from devices.console.exits import CommandFailed, Exit
from devices.console.output import talk
from devices.console.progress import progress
from devices.contract.commands import Reply
from gateway.console.commanding_line import OperatorLine
from gateway.console.commanding_order import Errand, Fate, Order, Tally, worst
from gateway.console.commanding_view import (
    Bar,
    JsonLines,
    Moves,
    View,
    tell_interrupted,
    tell_many,
    tell_recorded,
)
from gateway.console.operator_key import OperatorKey

SILENCE_S: Final = 3.0
"""A gateway that is there has answered by then."""


def wall_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


async def give(order: Order, key: OperatorKey, *, now_ms: Callable[[], int] = wall_ms) -> None:
    """Have an order carried out; returns when all of it succeeded.

    Raises CommandFailed with the exit code of the worst end otherwise.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        asking = Asking(order, key, view=_view(order, stack), now_ms=now_ms)
        try:
            await asking.run()
        except (asyncio.CancelledError, ExceptionGroup):
            stack.close()
            tell_interrupted(asking.errands)
            raise
    errands = asking.errands
    if len(errands) > 1:
        tell_many(order, errands, asking.tally, took_s=time.monotonic() - began)
    if asking.tally.is_hopeless and asking.tally.counts[Fate.NOT_ASKED]:
        raise CommandFailed(
            f"ended early: more than {order.abort_above:.0%} did not succeed (--abort-at)"
        )
    if len(errands) == 1 and not order.waits and not order.as_json:
        tell_recorded(errands[0])
    if bad := [each for each in errands if not each.is_good]:
        raise CommandFailed(_say_bad(order, bad, len(errands)), code=worst(e.exit for e in bad))


class Asking:
    """The requests of one order on one line."""

    def __init__(
        self, order: Order, key: OperatorKey, *, view: View, now_ms: Callable[[], int]
    ) -> None:
        self.errands = [Errand(order, each) for each in dict.fromkeys(order.scooter_ids)]
        self.tally = Tally(order)
        self._order = order
        self._view = view
        self._now_ms = now_ms
        self._by_ref = {each.ref: each for each in self.errands}
        self._news = {each.ref: asyncio.Event() for each in self.errands}
        self._line = OperatorLine(key, hear=self._hear, again=self._again)
        self._has_heard = asyncio.Event()

    async def run(self) -> None:
        """Ask for each, in turn and not too fast, and return when all have ended."""
        async with asyncio.TaskGroup() as group:
            line = group.create_task(self._line.run(), name="line")
            await self._line.up()
            silence = group.create_task(self._tell_silence(), name="silence")
            await self._ask_all()
            silence.cancel()
            line.cancel()

    async def _ask_all(self) -> None:
        slots = asyncio.Semaphore(self._order.at_once)
        next_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for errand in self.errands:
                await slots.acquire()
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                next_at = max(next_at, time.monotonic()) + 1 / self._order.rate
                if self.tally.is_hopeless:
                    break
                group.create_task(self._see_through(errand, slots), name=errand.scooter_id)
        for errand in self.errands:
            if not errand.payload:
                errand.leave_out()
                self._end(errand)

    async def _see_through(self, errand: Errand, slots: asyncio.Semaphore) -> None:
        payload = errand.ask(now=time.monotonic(), now_ms=self._now_ms())
        has_slot = True
        try:
            async with asyncio.timeout(self._order.patience_s):
                await self._line.ask(payload)
                while not self._is_over(errand):
                    if errand.is_queued and has_slot:
                        slots.release()  # it may wait for days, and others need not
                        has_slot = False
                        self._tell_queued(errand)
                    await self._news[errand.ref].wait()
                    self._news[errand.ref].clear()
        except TimeoutError:
            if not self._is_over(errand):
                errand.give_up(now=time.monotonic())
        finally:
            if has_slot:
                slots.release()
        self._end(errand)

    def _is_over(self, errand: Errand) -> bool:
        has_heard = errand.outcome is not None
        return errand.outcome_is_final or (has_heard and not self._order.waits)

    def _end(self, errand: Errand) -> None:
        self.tally.add(errand)
        self._view.ended(errand, ended=self.tally.ended)

    def _hear(self, reply: Reply) -> None:
        self._has_heard.set()
        errand = self._by_ref.get(reply.get("ref", ""))
        now = time.monotonic()
        if errand is None or not errand.payload or not errand.hear(reply, now=now):
            return
        self._view.moved(errand, reply, now=now)
        if problem := errand.clock_problem(reply):
            talk(problem)
        self._news[errand.ref].set()

    def _again(self) -> list[bytes]:
        """After a reconnect: everything that was asked and has not ended."""
        return [
            each.ask_again() for each in self.errands if each.payload and not self._is_over(each)
        ]

    async def _tell_silence(self) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._has_heard.wait()
        except TimeoutError:
            seen = ", ".join(f"{name} is {how}" for name, how in self._line.gateways.items())
            talk(
                f"no gateway answers ({seen or 'none was ever here'}); waiting up to "
                f"{max(self._order.patience_s - SILENCE_S, 0):.0f} s more"
            )

    def _tell_queued(self, errand: Errand) -> None:
        if len(self.errands) == 1 and not self._order.as_json:
            talk(
                f"{errand.scooter_id} is away: the command waits for it. Ctrl-C ends this command "
                f"line only; `scooter commands cancel {errand.request_id}` calls it off"
            )


def _view(order: Order, stack: ExitStack) -> View:
    if order.as_json:
        return JsonLines()
    if len(order.scooter_ids) == 1:
        return Moves()
    return Bar(stack.enter_context(progress(order.command, len(order.scooter_ids))))


def _say_bad(order: Order, bad: list[Errand], total: int) -> str:
    if total > 1:
        return f"{len(bad)} of {total} did not succeed"
    (one,) = bad
    said = f"{order.command} of {one.scooter_id}: {one.outcome}"
    if one.exit is Exit.TIMED_OUT:
        said += ": whether it was carried out is not known"
    if one.detail:
        said += f" ({one.detail})"
    return f"{said}; its request id is {one.request_id}" if one.request_id else said
