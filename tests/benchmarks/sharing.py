"""Two gateways that share the load, beside one."""

from tests.benchmarks.scenes import Scene

NAMES = ("share-1", "share-2")


async def measure_sharing(scene: Scene) -> None:
    """CPU a message of both together over one gateway's, and how even the split is."""
    stage, fleet, laps = scene.stage, scene.scale.fleet, scene.scale.laps(scene.scale.fleet)
    ratios, shares = [], []
    for _ in range(scene.scale.repetitions):
        async with stage.gateway(mqtt_shared=True) as alone:
            await stage.run(stage.load("S", fleet), {"gateway": alone})
            one = await stage.run(stage.load("S", fleet, laps=laps), {"gateway": alone})
        async with (
            stage.gateway(instance=NAMES[0], mqtt_shared=True) as first,
            stage.gateway(instance=NAMES[1], mqtt_shared=True) as second,
        ):
            both = dict(zip(NAMES, (first, second), strict=True))
            await stage.run(stage.load("S", fleet), both)
            before = [await each.kept("applied", "late") for each in both.values()]
            two = await stage.run(stage.load("S", fleet, laps=laps), both)
            after = [await each.kept("applied", "late") for each in both.values()]
        together = sum(two.cpu_us(name) for name in NAMES)
        ratios.append(together / one.cpu_us("gateway"))
        shares.append(100 * (after[0] - before[0]) / two.messages)
    scene.figures.add(
        "two_gateways_cpu_over_one",
        "CPU a message of two gateways sharing, over one's",
        "x",
        ratios,
        at_most=1.15,
    )
    larger = [max(share, 100 - share) for share in shares]
    what = "larger part of the split between two gateways"
    scene.figures.add("two_gateways_larger_share", what, "%", larger, at_most=55.0)
