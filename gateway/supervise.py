"""Every loop has a name and an owner; one that ends on its own ends the service, loudly."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import structlog

log = structlog.get_logger()

Loop = Callable[[], Awaitable[None]]

PATIENCE_S: Final = (3.0, 3.0, 1.0)
"""A loop that was cancelled and runs on after this is cancelled again; after the last it is left.

The longest ending that waits for something on purpose, a goodbye, takes less than the first.
"""

EXIT_S: Final = 9.5
"""Seconds from a signal to the end of the process, whatever still holds it up."""


@contextmanager
def stop_on_signals(stop: asyncio.Event, *, exit_s: float | None = None) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the block runs.

    With `exit_s` a process that still runs so long afterwards ends at once, with exit code 1:
    nothing is settled before it is kept, so that loses nothing.
    """
    loop = asyncio.get_running_loop()

    def tell() -> None:
        if exit_s is not None and not stop.is_set():
            last_resort = threading.Timer(exit_s, _exit)
            last_resort.daemon = True
            last_resort.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def supervise(
    loops: Mapping[str, Loop],
    *,
    stop: asyncio.Event,
    patience_s: Sequence[float] = PATIENCE_S,
) -> None:
    """Run every loop until `stop` is set or one of them fails; then cancel them all.

    Nothing is settled before it is kept, so stopping anywhere loses nothing. Raises a group of
    what loops failed with.
    """
    tasks = [
        asyncio.create_task(_for_ever(name, loop, stop), name=name) for name, loop in loops.items()
    ]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await _end(tasks, patience_s)
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    if errors := [error for task in ended if (error := task.exception()) is not None]:
        raise BaseExceptionGroup("loops of the service failed", errors)


async def _for_ever(name: str, loop: Loop, stop: asyncio.Event) -> None:
    await loop()
    if not stop.is_set():
        raise RuntimeError(f"the loop {name} ended on its own")


async def _end(tasks: Sequence[asyncio.Task[None]], patience_s: Sequence[float]) -> None:
    """Cancel until all have ended, or patience has.

    Once is not always enough: before Python 3.12 `wait_for`, which libraries use, swallows a
    cancellation that comes together with what it waits for (python/cpython#86296).
    """
    left = {task for task in tasks if not task.done()}
    for wait_s in patience_s:
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=wait_s)
    if left:
        log.error("loops do not end", loops=sorted(task.get_name() for task in left))


def _exit() -> None:
    log.error("the process does not end in order: it ends now")
    os._exit(1)
