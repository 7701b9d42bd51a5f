"""CPU and memory of processes, as the operating system accounts for them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_S: Final = os.sysconf("SC_CLK_TCK")
_MIB: Final = 1024


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, of a process and of all its children, ended ones too."""
    own = cpu_of_stat(Path(f"/proc/{pid}/stat").read_text())
    return own + sum(cpu_s(child) for child in _children(pid))


def cpu_of_stat(line: str) -> float:
    """Seconds in one line of /proc/PID/stat: utime, stime and those of children that ended."""
    fields = line.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_S


def resident_mib(pid: int) -> float:
    """MiB of memory that a process holds now."""
    return _status(pid, "VmRSS")


def forget_peak(pid: int) -> None:
    """Let the peak begin anew at what is held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The most MiB that a process held since its start, or since `forget_peak`."""
    return _status(pid, "VmHWM")


@dataclass(frozen=True, slots=True)
class CpuMeter:
    """Reads what several processes used since it was made."""

    pids: Mapping[str, int]
    began: Mapping[str, float]

    @classmethod
    def start(cls, pids: Mapping[str, int]) -> "CpuMeter":
        return cls(pids, {name: cpu_s(pid) for name, pid in pids.items()})

    def used_s(self) -> dict[str, float]:
        """Seconds of CPU by name, since the start."""
        return {name: cpu_s(pid) - self.began[name] for name, pid in self.pids.items()}


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / _MIB
    raise ValueError(f"process {pid} has no {name}")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text().split())
        except OSError:  # the thread ended while we looked
            continue
    return found
