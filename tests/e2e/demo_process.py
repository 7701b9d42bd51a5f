"""`scooter demo` as a child process that is no terminal, and commands pasted beside it."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.local.server_process import is_alive
from tests.command_line import Ended, environment
from tests.eventually import eventually

PERIOD: Final = "2s"
_START_S: Final = 60.0
_STOP_S: Final = 40.0


class DemoProcess:
    """One demo; what it says is kept by line."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self._folder = folder
        self.said: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode().rstrip("\n"))

    async def rides(self) -> list[str]:
        """Wait until the first totals are told; returns the lines to paste, in their order."""

        async def probe() -> bool:
            assert self.process.returncode is None, self.said
            return any(" messages" in line for line in self.said)

        await eventually(probe, within_s=_START_S, what=f"the demo: {self.said}")
        first = next(n for n, line in enumerate(self.said) if line.startswith("To look inside"))
        return [line.strip() for line in self.said[first + 1 :] if line.startswith("  ")]

    def family(self) -> list[int]:
        """Itself, its servers and their children."""
        return [self.process.pid, *_descendants(self.process.pid)]

    def command_lines(self) -> list[str]:
        """What everybody on the machine may read of the family."""
        return [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in self.family()]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> Ended:
        """Its exit code and output, once it is over."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_STOP_S):
            out = await self.process.stdout.read()
            code = await self.process.wait()
            await self._reading
        return Ended(code, out.decode(), "\n".join(self.said))

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading


@asynccontextmanager
async def demo(folder: Path, *options: str) -> AsyncIterator[DemoProcess]:
    """Start it in `folder`, with its data in `demo` there."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "gateway", "demo"),
        *("--json", "--folder", "demo", "--period", PERIOD, *options),
        cwd=folder,
        env=environment({}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    running = DemoProcess(process, folder)
    try:
        yield running
    finally:
        await running.close()


async def paste(line: str, folder: Path) -> Ended:
    """What a person does in a second terminal; the line is ended by Ctrl-C when it goes on."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line),
        cwd=folder,
        env=environment({}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def scooter(folder: Path, *words: str) -> Ended:
    """A command that finds the demo as the printed lines do."""
    program = Path(sys.executable).parent / "scooter"
    return await paste(f"SCOOTER_ENV_FILE=demo/gateway.env {program} {' '.join(words)}", folder)


async def gone(pids: list[int]) -> None:
    """Until none of these processes runs."""

    async def probe() -> bool:
        return not any(map(is_alive, pids))

    await eventually(probe, within_s=15, what=f"the end of {pids}")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *_descendants(child)]
    return found
