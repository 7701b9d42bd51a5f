"""CPU a message of gateway, broker and Redis, beside the plain gateways; TLS off and on."""

from collections.abc import Mapping

from tests.benchmarks.figures import ratios
from tests.benchmarks.scenes import Scene
from tests.benchmarks.stage import Run

PLAIN, TLS = "", "_tls"
BASELINES = ("baseline", "baseline_without_insert")


async def measure_throughput(scene: Scene) -> None:
    """Each repetition measures ours and the baselines one after the other, on equal load."""
    runs: dict[str, list[Run]] = {}
    for repetition in range(scene.scale.repetitions):
        for way in (PLAIN, TLS):
            runs.setdefault(f"gateway{way}", []).append(await _ours(scene, tls=way == TLS))
        for name in BASELINES:
            runs.setdefault(name, []).append(await _baseline(scene, name, repetition))
    _tell(scene, runs)


async def highest_rate(scene: Scene) -> float:
    """Messages a second of one gateway; measured once."""
    if not scene.per_second:
        scene.per_second = (await _ours(scene, tls=False)).per_second
    return scene.per_second


async def _ours(scene: Scene, *, tls: bool) -> Run:
    stage, fleet = scene.stage, scene.scale.fleet
    async with stage.gateway(tls=tls) as gateway:
        await stage.run(stage.load("T", fleet), {"gateway": gateway}, tls=tls)
        load = stage.load("T", fleet, laps=scene.scale.laps(fleet))
        return await stage.run(load, {"gateway": gateway}, tls=tls)


async def _baseline(scene: Scene, name: str, repetition: int) -> Run:
    stage = scene.stage
    async with stage.other(name) as plain:
        await stage.run(stage.load(f"W{name[8:]}{repetition}", 200), {name: plain})
        load = stage.load(f"B{name[8:]}{repetition}", scene.scale.baseline_messages)
        return await stage.run(load, {name: plain})


def _tell(scene: Scene, runs: Mapping[str, list[Run]]) -> None:
    figures = scene.figures
    ours = [run.cpu_us("gateway") for run in runs["gateway"]]
    for way, words in ((PLAIN, ""), (TLS, ", TLS")):
        measured = runs[f"gateway{way}"]
        rates = [run.per_second for run in measured]
        rate = figures.add(f"messages_per_s{way}", f"messages a second{words}", "1/s", rates)
        scene.per_second = scene.per_second or rate.value
        used = {name: [run.cpu_us(name) for run in measured] for name in measured[0].cpu_s}
        for name in ("gateway", "mosquitto", "redis", "publisher"):
            what = f"CPU a message, {name}{words}"
            figures.add(f"{name}_cpu_us{way}", what, "µs", used[name])
        over = ratios(used["gateway"], used["mosquitto"])
        figures.add(
            f"gateway_cpu_over_broker{way}",
            f"gateway's CPU over the broker's{words}",
            "x",
            over,
            at_most=None if way else 1.0,
        )
    for name, least in zip(BASELINES, (12.0, 8.0), strict=True):
        cpu = [run.cpu_us(name) for run in runs[name]]
        words = "plain gateway" if name == "baseline" else "plain gateway without the INSERT"
        figures.add(f"{name}_cpu_us", f"CPU a message, {words}", "µs", cpu)
        figures.add(
            f"{name}_cpu_over_gateway",
            f"{words}'s CPU over ours" if name == "baseline" else "… without the INSERT, over ours",
            "x",
            ratios(cpu, ours),
            at_least=least,
        )
