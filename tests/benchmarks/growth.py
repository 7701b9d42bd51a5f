"""How costs grow with the number of scooters and the size of a report, and the plot of it."""

from pathlib import Path

from tests.benchmarks.accounting import resident_mib
from tests.benchmarks.load import SIZES
from tests.benchmarks.scenes import Scene
from tests.benchmarks.stage import Run
from tests.benchmarks.svg import Panel, draw

FEWEST = 100


async def measure_growth(scene: Scene) -> None:
    """CPU a message for 100 to 100,000 scooters and for three sizes; ends with the most scooters.

    The fleet of that last run stays for the scene of snapshots.
    """
    by_size = [await _measure(scene, FEWEST * 10, size=size) for size in SIZES]
    counts = [FEWEST]
    while counts[-1] < scene.scale.many:
        counts.append(counts[-1] * 10)
    by_scooters = [
        by_size[SIZES.index(150)] if count == FEWEST * 10 else await _measure(scene, count)
        for count in counts
    ]
    scene.details["growth"] = {
        "by_scooters": [_row("scooters", *pair) for pair in zip(counts, by_scooters, strict=True)],
        "by_size": [_row("bytes", *pair) for pair in zip(SIZES, by_size, strict=True)],
    }
    # A batch holds several reports of one scooter when there are fewer than about 1,000, and Redis
    # writes them as one: its cost is compared from there on, the gateway's from the fewest.
    for name, first in (("gateway", 0), ("redis", 1)):
        scene.figures.add(
            f"{name}_cpu_growth",
            f"CPU a message, {name}, {counts[-1]:,} scooters over {counts[first]:,}",
            "x",
            [by_scooters[-1].cpu_us(name) / by_scooters[first].cpu_us(name)],
        )


def plot_growth(scene: Scene, path: Path) -> None:
    """Draw what `measure_growth` and the snapshots found."""
    growth = scene.details["growth"]
    panels = []
    for key, axis, is_log in (("by_scooters", "scooters", True), ("by_size", "bytes", False)):
        rows = growth[key]
        xs = [row[axis] for row in rows]
        cpu = {name: [row[f"{name}_cpu_us"] for row in rows] for name in _NAMES}
        rate = {"messages a second": [row["messages_per_s"] for row in rows]}
        label = "scooters" if axis == "scooters" else "bytes a report"
        panels.append(Panel("CPU a message, µs", label, xs, cpu, log_x=is_log))
        panels.append(Panel("Messages a second", label, xs, rate, log_x=is_log))
    if rounds := scene.details.get("snapshots"):
        xs = [row["scooters"] for row in rounds]
        seconds = {"seconds a round": [row["seconds"] for row in rounds]}
        panels.append(Panel("Snapshot, s", "changed scooters", xs, seconds, log_x=False))
    path.write_text(draw("How costs grow", panels))


_NAMES = ("gateway", "mosquitto", "redis")


async def _measure(scene: Scene, scooters: int, *, size: int = 150) -> Run:
    stage, prefix = scene.stage, f"G{size}x{scooters}"
    async with stage.gateway() as gateway:
        await stage.run(stage.load(prefix, scooters, size=size), {"gateway": gateway})
        # Of more scooters than there are messages, some report; the others are there too.
        some = min(scooters, scene.scale.messages)
        load = stage.load(prefix, some, laps=scene.scale.laps(some), size=size)
        run = await stage.run(load, {"gateway": gateway})
        if scooters == scene.scale.many:
            scene.memory_mib = resident_mib(gateway.process.pid)
        return run


def _row(axis: str, number: int, run: Run) -> dict[str, float]:
    used = {f"{name}_cpu_us": run.cpu_us(name) for name in _NAMES}
    return {axis: number, "messages_per_s": run.per_second, **used}
