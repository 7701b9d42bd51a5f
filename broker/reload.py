"""How Mosquitto is told that its password file is another one: three ways to send it a SIGHUP."""

import asyncio
import os
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from broker.admission import BrokerAway, NotAdmitted
from broker.files import locked, replace, write_beside

_PROGRAM = "mosquitto"
_UNIT_TIMEOUT_S = 30.0
_PAUSE_S = 0.02


class Reload(Protocol):
    """Asks once; that the broker did load the file is proved by logging in."""

    async def request(self) -> None:
        """Raises NotAdmitted or BrokerAway when it could not even be asked."""
        ...


@dataclass(frozen=True, slots=True)
class PidFileReload:
    """SIGHUP to the Mosquitto that wrote this pid file: a child, or a service on this machine."""

    path: Path
    start_within_s: float = 30.0

    def __str__(self) -> str:
        return f"pid:{self.path}"

    async def request(self) -> None:
        give_up_at = monotonic() + self.start_within_s
        while not self._signal():
            if monotonic() > give_up_at:
                raise self._cannot("it has not finished starting")
            await asyncio.sleep(_PAUSE_S)

    def _signal(self) -> bool:
        """False while it starts: it writes its pid file before a SIGHUP no longer ends it."""
        try:
            pid = int(self.path.read_text())
            process = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError):
            raise BrokerAway(
                f"No Mosquitto runs with the pid file {self.path}: start it. "
                "It reads the new password file when it starts."
            ) from None
        except (OSError, OverflowError, ValueError) as error:
            raise self._cannot(f"it cannot be read ({error})") from error
        # The handle stays with this process: its number cannot become another's in between.
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name != _PROGRAM:
                raise self._cannot(f"process {pid} is {name}, not {_PROGRAM}")
            if not _catches_hangup(pid):
                return False
            signal.pidfd_send_signal(process, signal.SIGHUP)
        except PermissionError:
            raise self._cannot(f"process {pid} belongs to another user") from None
        except (FileNotFoundError, ProcessLookupError):
            raise BrokerAway(f"Mosquitto, process {pid}, has just ended: start it.") from None
        else:
            return True
        finally:
            os.close(process)

    def _cannot(self, reason: str) -> NotAdmitted:
        return NotAdmitted(
            f"Mosquitto was not asked to reload by its pid file {self.path}: {reason}. The new "
            "password file is in place; reload the broker yourself.",
            written=True,
        )


@dataclass(frozen=True, slots=True)
class ServiceReload:
    """`systemctl reload UNIT`; the unit's ExecReload sends the SIGHUP."""

    unit: str = _PROGRAM

    def __str__(self) -> str:
        return f"service:{self.unit}"

    async def request(self) -> None:
        command = ("systemctl", "reload", "--", self.unit)
        try:
            asked = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise self._cannot(f"{command[0]}: {error.strerror}") from error
        try:
            async with asyncio.timeout(_UNIT_TIMEOUT_S):
                _, said = await asked.communicate()
        except TimeoutError:
            asked.kill()
            await asked.wait()
            raise self._cannot(f"no answer in {_UNIT_TIMEOUT_S:.0f} s") from None
        if asked.returncode != 0:
            lines = said.decode(errors="replace").strip().splitlines()
            raise self._cannot(lines[-1] if lines else f"exit code {asked.returncode}")

    def _cannot(self, reason: str) -> NotAdmitted:
        return NotAdmitted(
            f"`systemctl reload {self.unit}` failed ({reason}). The new password file is in place; "
            "reload the broker yourself.",
            written=True,
        )


@dataclass(frozen=True, slots=True)
class WatchedReload:
    """`watch-passwords.sh` runs the broker and sees that the password file is another one.

    It looks at `passwords`.reload as well: what is new there asks once more for the same file.
    """

    passwords: Path

    def __str__(self) -> str:
        return "watched"

    async def request(self) -> None:
        file = self.passwords.with_name(f"{self.passwords.name}.reload")
        try:
            await asyncio.to_thread(self._ask, file)
        except OSError as error:
            raise NotAdmitted(
                f"Mosquitto was not asked to reload: {file} cannot be written "
                f"({error.strerror or error}). The new password file is in place; make room or "
                "give access, then try again.",
                written=True,
            ) from error

    def _ask(self, file: Path) -> None:
        with locked(file.parent):
            replace(write_beside(file, f"{secrets.token_hex(16)}\n", like=self.passwords), file)


def _catches_hangup(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


def parse_reload(text: str, passwords: Path) -> Reload:
    """`pid:PATH`, `service:UNIT` or `watched`, of the broker with this password file.

    Raises ValueError for anything else.
    """
    match text.partition(":"):
        case ("pid", _, path) if path:
            return PidFileReload(Path(path))
        case ("service", _, unit) if unit and not unit.startswith("-"):
            return ServiceReload(unit)
        case ("watched", "", ""):
            return WatchedReload(passwords)
    raise ValueError(f"{text!r} is none of pid:PATH, service:UNIT and watched")
