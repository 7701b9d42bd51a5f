"""From an operator's request to its scooter, while telemetry comes at half of the highest rate."""

import asyncio
import itertools
import time

import orjson

from devices.contract import topics
from tests.benchmarks.child import BenchmarkFailed
from tests.benchmarks.figures import percentile
from tests.benchmarks.scenes import Scene
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import highest_rate
from tests.bundles import FLEET_SECRET
from tests.commanding import KEY
from tests.e2e.scooter import Scooter, wall_ms
from tests.e2e.squad import Squad
from tests.eventually import eventually
from tests.wire import Message, Wire, connect, publish_packet

SCOOTERS = 50
"""Commanded in turn, so that each has answered before it is asked again."""

LOST_S = 10.0
ASK_EVERY_S = 0.015
PROBES = 5
"""Times as many as elsewhere: a p99 of sixty is their maximum."""
AT_MOST_MS = 50.0


async def measure_commands(scene: Scene) -> None:
    """p50 and p99 from a request's publish until its scooter has the command."""
    stage, rate = scene.stage, await highest_rate(scene) / 2
    requests = Requests(stage)
    await stage.admit(list(requests.squad.scooters))
    async with stage.gateway(fleet_secret=FLEET_SECRET) as gateway:
        await stage.run(stage.load("L", scene.scale.fleet), {"gateway": gateway})
        laps = max(1, round(rate * PROBES * scene.scale.probes * ASK_EVERY_S / scene.scale.fleet))
        load = stage.load("L", scene.scale.fleet, laps=laps, rate=rate)
        async with requests.squad.online(stage.servers.mqtt_port), asyncio.TaskGroup() as group:
            await requests.known()
            group.create_task(requests.run())
            await stage.run(load, {"gateway": gateway}, beside=requests)
    await requests.squad.forgotten(stage.servers.mqtt_port)
    half = f"with {rate:,.0f} reports a second"
    for percent, at_most in ((50, None), (99, AT_MOST_MS)):
        scene.figures.add(
            f"command_p{percent}_ms",
            f"request to command at the scooter, p{percent}, {half}",
            "ms",
            [percentile(requests.seen_ms, percent)],
            at_most=at_most,
        )
    scene.details["commands"] = {
        "requests": len(requests.seen_ms),
        "longest_ms": max(requests.seen_ms),
        "done": sum(len(each.executed) for each in requests.squad.scooters.values()),
    }


class Requests:
    """One operator, who asks for the next unlock as soon as the last one arrived."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._started, self._stopping = asyncio.Event(), asyncio.Event()
        self._stopped, self._arrived = asyncio.Event(), asyncio.Event()
        self._asked = ""
        scooters = [Scooter(f"commanded-{number:03d}") for number in range(SCOOTERS)]
        self.squad = Squad(scooters, commanded=self._commanded)
        self.seen_ms: list[float] = []

    async def known(self) -> None:
        """Until the gateway has every birth and report of the commanded."""
        redis = self._stage.redis

        async def probe() -> bool:
            pipe = redis.pipeline(transaction=False)
            for each in self.squad.scooters:
                pipe.hmget(f"scooter:{each}", ["uptime_boot", "lock"])
            return all(None not in row for row in await pipe.execute())

        await eventually(probe, within_s=60, what="the commanded scooters")

    async def run(self) -> None:
        """From `start` to `stop`; raises BenchmarkFailed when a command never arrived."""
        wire = Wire(lambda _packet_id: None, lambda _topic, _payload: None)
        await self._started.wait()
        await connect(wire, self._stage.servers.mqtt_port, "asking")
        for number, scooter_id in enumerate(itertools.cycle(self.squad.scooters)):
            self._asked = scooter_id
            if self._stopping.is_set():
                break
            request = {"ref": f"b{number}", "at": wall_ms(), "scooter_id": self._asked}
            payload = orjson.dumps(request | {"command": "unlock"})
            packet = publish_packet(number % 65_535 + 1, Message(topics.requests(KEY), payload))
            self._arrived.clear()
            began = time.perf_counter()
            wire.write(packet)
            try:
                async with asyncio.timeout(LOST_S):
                    await self._arrived.wait()
            except TimeoutError:
                raise BenchmarkFailed("a command never came to its scooter") from None
            self.seen_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(ASK_EVERY_S)
        wire.close()
        await self.squad.quiet()
        self._stopped.set()

    def _commanded(self, scooter_id: str) -> None:
        if scooter_id == self._asked:
            self._arrived.set()

    def start(self) -> None:
        self._started.set()

    async def stop(self) -> int:
        """Returns how many reports were published: none, only answers."""
        self._stopping.set()
        await self._stopped.wait()
        return 0
