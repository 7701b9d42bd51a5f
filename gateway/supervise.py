"""Every loop has a name and an owner; one that ends on its own ends the service, loudly."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

Loop = Callable[[], Awaitable[None]]


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the block runs."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def supervise(loops: Mapping[str, Loop], *, stop: asyncio.Event) -> None:
    """Run every loop until `stop` is set or one of them fails; then cancel them all.

    Nothing is settled before it is kept, so stopping anywhere loses nothing.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_for_ever(name, loop), name=name) for name, loop in loops.items()
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _for_ever(name: str, loop: Loop) -> None:
    await loop()
    raise RuntimeError(f"the loop {name} ended on its own")
