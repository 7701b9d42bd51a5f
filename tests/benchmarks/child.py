"""The processes of a benchmark: what is measured, and the publisher of the load."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from gateway.errors import GatewayError
from tests.benchmarks.load import Load

START_S = 60.0


class BenchmarkFailed(GatewayError):
    """A run left something out or a process ended: its figures would mean nothing."""


class Child:
    """One process of ours, spoken to by lines."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, log: IO[bytes]) -> None:
        self._process = process
        self._name = name
        self._log = log

    @classmethod
    async def start(
        cls, module: str, *arguments: str, env: Mapping[str, str] | None = None, log: IO[bytes]
    ) -> Self:
        process = await asyncio.create_subprocess_exec(
            # It must not outlive a benchmark that is killed.
            *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(env or {})},
        )
        return cls(process, module, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def hear(self, within_s: float = START_S) -> str:
        """The next line; raises BenchmarkFailed when the process ended instead."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"{self._name} ended on its own: {_end_of(self._log)}")
        return line.decode().strip()

    async def stop(self) -> None:
        """End it in order, by force after ten seconds."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(10.0):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def publisher(
    load: Load, *, host: str, port: int, ca_file: str | None, log: IO[bytes]
) -> AsyncIterator[Child]:
    """A publisher that has encoded the load and is connected; any line starts it."""
    child = await Child.start("tests.benchmarks.publisher", log=log)
    try:
        plan: dict[str, Any] = {"load": asdict(load), "host": host, "port": port}
        child.say(json.dumps(plan | {"ca_file": ca_file}))
        if (said := await child.hear()) != "ready":
            raise BenchmarkFailed(f"the publisher said {said}")
        yield child
    finally:
        await child.stop()


def _end_of(log: IO[bytes]) -> str:
    lines = Path(log.name).read_text().splitlines()
    return "\n".join(lines[-5:])
