"""Waiting for facts, not for time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

AGAIN_S = 3.0


async def eventually(
    probe: Callable[[], Awaitable[T | None]], *, within_s: float = 10.0, what: str
) -> T:
    """Ask `probe` until it has a truthy answer; fail naming `what` never came."""
    try:
        async with asyncio.timeout(within_s):
            while not (found := await probe()):  # noqa: ASYNC110 - no event to wait on
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        message = f"waited {within_s} s for {what}"
        raise AssertionError(message) from None


async def end(task: "asyncio.Future[T]") -> None:
    """Cancel until it has ended, as the gateway does: a library may swallow a cancellation.

    Raises what it failed with.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
    if not task.cancelled() and (error := task.exception()):
        raise error
