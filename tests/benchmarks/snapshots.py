"""Snapshots of the whole fleet, memory with it, and the start with all of it dirty."""

import json
import time
from collections.abc import Mapping
from typing import Final

from gateway.telemetry.state_store import DIRTY
from tests.benchmarks.accounting import CpuMeter, resident_mib
from tests.benchmarks.child import BenchmarkFailed
from tests.benchmarks.scenes import Scene
from tests.benchmarks.stage import Stage

# What a report of each would leave: a newer version, in the next period, and a dirty mark.
_CHANGE = """
local now = redis.call('TIME')
local ms = now[1] * 1000 - 1000
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) - 1 do
  local id = string.format('%s-%06d', ARGV[1], number)
  redis.call('HINCRBY', 'scooter:' .. id, 'version', 30000000)
  redis.call('ZADD', KEYS[1], ms, id)
end
"""
_CHUNK: Final = 5_000


async def measure_snapshots(scene: Scene) -> None:
    """Rounds of a tenth, a half and the whole fleet, with everything changed each time."""
    stage, many, figures = scene.stage, scene.scale.many, scene.figures
    if not scene.memory_mib:
        await _fill(scene)
    began = time.perf_counter()
    async with stage.gateway():
        start_s = time.perf_counter() - began
    figures.add(
        "memory_100k_mib",
        f"gateway's memory with {many:,} scooters, after their load",
        "MiB",
        [scene.memory_mib],
        at_most=200.0,
    )
    figures.add(
        "start_100k_dirty_s",
        f"start with {many:,} dirty scooters until ready",
        "s",
        [start_s],
        at_most=5.0,
    )
    rounds = []
    for scooters in (many // 10, many // 2, *[many] * min(2, scene.scale.repetitions)):
        await change(stage, fleet_name(many), scooters)
        rounds.append({"scooters": scooters, **await write_one_round(stage, scooters)})
    whole = [each for each in rounds if each["scooters"] == many]
    scene.details["snapshots"] = rounds[:2] + whole[:1]
    seconds = [each["seconds"] for each in whole]
    figures.add("snapshot_100k_s", f"snapshot of {many:,} scooters", "s", seconds, at_most=3.0)
    figures.add(
        "snapshot_100k_over_idle_mib",
        "memory of that round over idle",
        "MiB",
        [each["over_idle_mib"] for each in whole],
        at_most=150.0,
    )
    for name in ("cpu_s", "redis_cpu_s", "postgres_cpu_s"):
        owner = name.removesuffix("cpu_s").removesuffix("_") or "gateway"
        used = [each[name] / each["rows"] * 1e6 for each in whole]
        figures.add(f"snapshot_{owner}_cpu_us", f"CPU a snapshot row, {owner}", "µs", used)
    per_row = [each["seconds"] / each["scooters"] for each in rounds]
    figures.add(
        "snapshot_100k_over_10k_per_row",
        f"time a row, {many:,} scooters over {many // 10:,}",
        "x",
        [per_row[-1] / per_row[0]],
    )


def fleet_name(scooters: int) -> str:
    """The fleet that the scene of growth leaves, or that is filled in here."""
    return f"G150x{scooters}"


async def change(stage: Stage, prefix: str, scooters: int) -> None:
    """Make the first `scooters` of a fleet, and nobody else, newer than their snapshots."""
    await stage.redis.delete(DIRTY)
    for first in range(0, scooters, _CHUNK):
        until = min(first + _CHUNK, scooters)
        await stage.redis.eval(_CHANGE, 1, DIRTY, prefix, first, until)


async def write_one_round(stage: Stage, scooters: int) -> Mapping[str, float]:
    """Rows, seconds, CPU and memory of one round; raises BenchmarkFailed unless all are written."""
    child = await stage.child("tests.benchmarks.snapshot_round")
    try:
        await child.hear()
        meter = CpuMeter.start(stage.pids())
        child.say("go")
        told: dict[str, float] = json.loads(await child.hear())
        used = meter.used_s()
    finally:
        await child.stop()
    left = await stage.redis.zcard(DIRTY)
    if told["rows"] != scooters or left:
        raise BenchmarkFailed(f"{scooters} changed, {told['rows']} rows written, {left} dirty")
    return told | {f"{name}_cpu_s": used[name] for name in ("redis", "postgres")}


async def _fill(scene: Scene) -> None:
    """A report of every scooter, and the gateway's memory after it."""
    stage, many = scene.stage, scene.scale.many
    async with stage.gateway() as gateway:
        await stage.run(stage.load(fleet_name(many), many), {"gateway": gateway})
        scene.memory_mib = resident_mib(gateway.process.pid)
