"""The reference client of the devices README, run by a real MicroPython."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CLIENT: Final = Path(__file__).parents[1] / "devices" / "micropython"


def find_micropython() -> str:
    """The interpreter: a development dependency on Linux x86-64; elsewhere the one on the path."""
    ours = Path(sys.executable).with_name("micropython")
    found = str(ours) if ours.exists() else shutil.which("micropython")
    if found is None:
        pytest.fail("No MicroPython: put its standard unix build, 1.24 or newer, on the path.")
    return found


async def start_client(bundle: Path, flash: Path) -> asyncio.subprocess.Process:
    """A scooter on the bench that reports once a second; what it prints is in `stdout`."""
    return await asyncio.create_subprocess_exec(
        # It must not outlive a test run that is killed.
        *("setpriv", "--pdeathsig", "KILL", find_micropython(), "bench.py", bundle, flash, "1"),
        cwd=CLIENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_snippet(source: str) -> str:
    """What a few lines print in the folder of the client."""
    done = subprocess.run(  # noqa: S603 - our own words
        [find_micropython(), "-c", source],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
