"""`make bench`: how fast the gateway is here, as a table and in .bench/latest.json."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from gateway.errors import GatewayError
from tests.benchmarks.commands import measure_commands
from tests.benchmarks.growth import measure_growth, plot_growth
from tests.benchmarks.latency import measure_latency
from tests.benchmarks.machine import busy, describe_machine
from tests.benchmarks.report import figures_table, seed_table
from tests.benchmarks.scenes import FULL, QUICK, Scene
from tests.benchmarks.seed import answer_seed
from tests.benchmarks.sharing import measure_sharing
from tests.benchmarks.snapshots import measure_snapshots
from tests.benchmarks.stage import open_stage
from tests.benchmarks.throughput import measure_throughput

FOLDER: Final = Path(".bench")
SCENES: Final[dict[str, Callable[[Scene], Awaitable[None]]]] = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "commands": measure_commands,
    "sharing": measure_sharing,
    "growth": measure_growth,
    "snapshots": measure_snapshots,
    "seed": answer_seed,
}


def main() -> int:
    options = _options()
    console = Console(stderr=options.json)
    FOLDER.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="scooter-bench-") as folder:
            told = uvloop.run(_measure(options, Path(folder), console))
    except GatewayError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(told) + "\n")
    return 0


async def _measure(options: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    began, load_before = time.perf_counter(), busy()
    async with open_stage(folder) as stage:
        scene = Scene(stage, QUICK if options.quick else FULL)
        machine = await describe_machine(stage)
        console.print(" · ".join(f"{name} {value}" for name, value in machine.items()))
        for name in options.only or SCENES:
            scene_began = time.perf_counter()
            await SCENES[name](scene)
            console.print(f"[dim]{name}: {time.perf_counter() - scene_began:.0f} s[/dim]")
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 1),
        "quick": options.quick,
        "machine": machine | {"load_average_before": f"{load_before:.2f}"},
        **scene.figures.values(),
        "figures": [figure.as_json() for figure in scene.figures.all],
        "details": scene.details,
    }
    (FOLDER / "latest.json").write_text(json.dumps(told, indent=2) + "\n")
    if "growth" in scene.details:
        plot_growth(scene, FOLDER / "growth.svg")
    console.print(figures_table(scene.figures.all))
    if "seed" in scene.details:
        console.print(seed_table(scene.details["seed"]))
    console.print(f"{told['seconds']:.0f} s; {FOLDER}/latest.json")
    return told


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=SCENES, help="measure this scene alone")
    parser.add_argument("--quick", action="store_true", help="rough figures, in under a minute")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
