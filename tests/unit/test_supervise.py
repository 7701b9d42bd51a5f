"""Loops end when they are told to, also those that do not listen at once."""

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from gateway.supervise import Loop, supervise

DEAF = """
import asyncio
from gateway.supervise import stop_on_signals

async def main():
    with stop_on_signals(asyncio.Event(), exit_s=0.2):
        print("up", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

asyncio.run(main())
"""


class Told(Exception):
    pass


class Swallows:
    """A loop that does not end for its first cancellations."""

    def __init__(self, cancellations: int) -> None:
        self.left = cancellations
        self.started = asyncio.Event()

    async def run(self) -> None:
        self.started.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.left:
                    raise
                self.left -= 1


async def waits() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise Told


async def returns() -> None:
    pass


async def ended(*loops: Loop, patience_s: tuple[float, ...] = (0.01, 0.01, 5.0)) -> None:
    """Supervise them, and stop once all have started."""
    stop = asyncio.Event()
    supervising = asyncio.create_task(
        supervise(
            {f"loop {number}": loop for number, loop in enumerate(loops)},
            stop=stop,
            patience_s=patience_s,
        )
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stop.set()
    await supervising


@pytest.mark.parametrize("cancellations", [0, 1, 2])
async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again(cancellations: int) -> None:
    loop = Swallows(cancellations)

    with capture_logs() as lines:
        await ended(waits, loop.run)

    assert loop.left == 0
    assert lines == []


async def test_a_loop_that_ends_in_no_way_is_named_and_left() -> None:
    loop = Swallows(3)

    with capture_logs() as lines:
        await ended(loop.run, waits, patience_s=(0.01, 0.01, 0.01))

    assert lines == [{"event": "loops do not end", "log_level": "error", "loops": ["loop 0"]}]


async def test_a_loop_is_not_hurried_while_it_says_goodbye() -> None:
    said: list[str] = []

    async def takes_leave() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            said.append("goodbye")

    await ended(takes_leave, patience_s=(30.0,))

    assert said == ["goodbye"]


async def test_a_loop_that_fails_ends_the_others_and_is_told() -> None:
    loop = Swallows(1)

    with pytest.raises(ExceptionGroup) as caught:
        await supervise(
            {"deaf": loop.run, "fails": fails}, stop=asyncio.Event(), patience_s=(0.01, 5.0)
        )

    assert [type(error) for error in caught.value.exceptions] == [Told]
    assert loop.left == 0


async def test_a_loop_that_ends_on_its_own_is_a_failure() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await supervise({"returns": returns, "waits": waits}, stop=asyncio.Event())

    assert [str(error) for error in caught.value.exceptions] == [
        "the loop returns ended on its own"
    ]


async def test_whoever_cancels_the_supervisor_ends_the_loops() -> None:
    loop = Swallows(1)
    supervising = asyncio.create_task(
        supervise({"deaf": loop.run}, stop=asyncio.Event(), patience_s=(0.01, 5.0))
    )
    await loop.started.wait()

    supervising.cancel()

    with pytest.raises(asyncio.CancelledError):
        await supervising
    assert loop.left == 0


def test_a_process_that_does_not_end_after_a_signal_is_ended() -> None:
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"

        process.terminate()

        assert process.wait(timeout=60) == 1
        said = process.stdout.read()
    assert "the process does not end in order" in said
