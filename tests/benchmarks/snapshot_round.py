"""One round of snapshots as a process of its own, so that its memory is its own.

`python -m tests.benchmarks.snapshot_round`, with settings from `SCOOTER_…` variables, says `ready`,
writes a round at the next line, and tells rows, seconds, CPU and memory as one line of JSON.
"""

import json
import os
import sys
import time

import uvloop

from gateway.console.running import spare_collections
from gateway.metrics import Metrics
from gateway.settings import Settings, read_settings
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.snapshots import DirtySet, write_round
from tests.benchmarks.accounting import forget_peak, peak_mib, resident_mib

PERIOD_S = 30.0


async def main(settings: Settings) -> None:
    assert settings.postgres_url is not None
    async with (
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_postgres(settings.postgres_url.get_secret_value()) as pool,
    ):
        await pool.fetchval("SELECT 1")
        dirty = DirtySet(redis)
        await dirty.now_ms()
        spare_collections()  # as the gateway does
        _say("ready")
        sys.stdin.readline()
        forget_peak(os.getpid())
        idle_mib, began, began_cpu = resident_mib(os.getpid()), time.perf_counter(), _cpu_s()
        rows = await write_round(dirty, pool, period_s=PERIOD_S, metrics=Metrics())
        told = {
            "rows": rows,
            "seconds": time.perf_counter() - began,
            "cpu_s": _cpu_s() - began_cpu,
            "over_idle_mib": peak_mib(os.getpid()) - idle_mib,
        }
        _say(json.dumps(told))
        sys.stdin.readline()


def _cpu_s() -> float:
    return time.process_time()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(read_settings()))
