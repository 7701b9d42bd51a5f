"""The machine that the figures are from."""

import os
import platform
from pathlib import Path
from typing import Final

import asyncpg

from tests.benchmarks.stage import Stage

_REDIS: Final = ("server_name", "valkey_version")


async def describe_machine(stage: Stage) -> dict[str, str]:
    """CPU, cores, kernel, Python and the versions of the servers, by name."""
    redis = await stage.redis.info("server")
    connection = await asyncpg.connect(stage.servers.postgres_url)
    postgres = await connection.fetchval("SHOW server_version")
    await connection.close()
    return {
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "mosquitto": stage.servers.program.version(),
        "redis": " ".join(str(redis[key]) for key in _REDIS if key in redis),
        "redis_allocator": str((await stage.redis.info("memory"))["mem_allocator"]),
        "postgres": str(postgres),
    }


def busy() -> float:
    """Load average of a minute: well above 1 at the start, others are at work too."""
    return os.getloadavg()[0]


def _line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
