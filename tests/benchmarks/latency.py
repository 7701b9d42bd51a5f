"""From publish to visible, at half of the highest rate, seen by asking for one scooter's state."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

from tests.benchmarks.child import BenchmarkFailed
from tests.benchmarks.figures import percentile
from tests.benchmarks.load import connect_packet, publish_packet, report
from tests.benchmarks.scenes import Scene
from tests.benchmarks.stage import PROBE, Applied, Run, Stage, Subject
from tests.benchmarks.throughput import highest_rate

LOST_S = 10.0
PROBE_EVERY_S = 0.015

Visible = Callable[[int], Awaitable[bool]]
"""Whether the probe's report with this number, or a later one, can be read."""


async def measure_latency(scene: Scene) -> None:
    """p50 and p99 until readable in Redis, and the CPU a message at that rate."""
    stage, rate = scene.stage, await highest_rate(scene) / 2
    async with stage.gateway() as gateway:
        await stage.run(stage.load("L", scene.scale.fleet), {"gateway": gateway})
        run, seen_ms = await at_rate(
            scene, "L", {"gateway": gateway}, rate=rate, visible=visible_in_redis(stage)
        )
    figures = scene.figures
    half = f"at {rate:,.0f} messages a second"
    figures.add("visible_p50_ms", f"publish to visible in Redis, p50, {half}", "ms", [seen_ms[0]])
    figures.add("visible_p99_ms", f"publish to visible in Redis, p99, {half}", "ms", [seen_ms[1]])
    cpu = [run.cpu_us("gateway")]
    figures.add("gateway_cpu_us_half_rate", f"CPU a message, gateway, {half}", "µs", cpu)
    over = [run.cpu_us("gateway") / run.cpu_us("mosquitto")]
    figures.add("gateway_cpu_over_broker_half_rate", f"gateway over broker, {half}", "x", over)


def visible_in_redis(stage: Stage) -> Visible:
    async def visible(seq: int) -> bool:
        order = await stage.redis.hget(f"scooter:{PROBE}", "report_order")
        return order is not None and int(cast("bytes", order).split(b":")[1]) >= seq

    return visible


async def at_rate(
    scene: Scene,
    prefix: str,
    subjects: dict[str, Subject],
    *,
    rate: float,
    visible: Visible,
    applied: Applied | None = None,
) -> tuple[Run, tuple[float, float]]:
    """Probe while a load of that rate runs; returns the run, and p50 and p99 in ms."""
    stage, fleet = scene.stage, scene.scale.fleet
    laps = max(1, round(rate * scene.scale.probes * PROBE_EVERY_S / fleet))
    load = stage.load(prefix, fleet, laps=laps, rate=rate)
    probes = Probes(stage, visible)
    async with asyncio.TaskGroup() as group:
        group.create_task(probes.run())
        run = await stage.run(load, subjects, applied=applied, beside=probes)
    return run, (percentile(probes.seen_ms, 50), percentile(probes.seen_ms, 99))


class Probes:
    """One scooter more, that reports again as soon as its last report can be read."""

    def __init__(self, stage: Stage, visible: Visible) -> None:
        self._stage = stage
        self._visible = visible
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self.seen_ms: list[float] = []

    async def run(self) -> None:
        """From `start` to `stop`; raises BenchmarkFailed when a report was never seen."""
        await self._started.wait()
        servers = self._stage.servers
        reader, writer = await asyncio.open_connection(servers.mqtt_host, servers.mqtt_port)
        writer.write(connect_packet(PROBE))
        await reader.readexactly(4)
        topic = f"scooters/{PROBE}/telemetry".encode()
        first = time.time_ns() // 1_000_000  # larger than what an earlier run ended with
        while not self._stopping.is_set():
            seq = (first + len(self.seen_ms)) % 2**32
            began = time.perf_counter()
            writer.write(publish_packet(topic, seq % 65_535 + 1, report(0, seq)))
            while not await self._visible(seq):
                if time.perf_counter() - began > LOST_S:
                    raise BenchmarkFailed("a probe's report was never seen")
                await asyncio.sleep(0.0005)
            self.seen_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PROBE_EVERY_S)
        writer.close()
        self._stopped.set()

    def start(self) -> None:
        self._started.set()

    async def stop(self) -> int:
        """Returns how many reports were published, all of them seen."""
        self._stopping.set()
        await self._stopped.wait()
        return len(self.seen_ms)
