"""A fleet that misbehaves with its commands: nothing unlocks late, nothing happens twice."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from devices.bundle import Bundle
from devices.registry import Registry
from devices.simulator.plan import Broker, CommandMishaps, FleetPlan, Mishaps, Obeyed, Totals
from devices.simulator.scooter import run_fleet
from gateway.local.servers import Servers
from gateway.storage.migrate import migrate
from gateway.storage.postgres import open_postgres
from tests.bundles import FLEET_SECRET, admit
from tests.commanding import FINAL, FakeOperator, Stage
from tests.eventually import eventually
from tests.registration import register
from tests.services import mosquitto_of

SIZE = 12
CLOSED = FINAL - {"timed_out"}


@dataclass(frozen=True)
class Scene:
    """What goes wrong, for how many commands a scooter, each of which counts for `ttl_s`."""

    mishaps: CommandMishaps
    seed: int
    rounds: int = 2
    ttl_s: int = 2


@dataclass
class Fleet:
    """Scooters with their own keys, and what they executed."""

    plan: FleetPlan
    bundles: dict[str, Bundle]
    totals: Totals = field(default_factory=Totals)
    obeyed: list[Obeyed] = field(default_factory=list)

    @asynccontextmanager
    async def riding(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        broker = Broker.of_bundles(self.bundles.values())
        task = asyncio.create_task(
            run_fleet(self.plan, broker, stop=stop, totals=self.totals, witness=self.obeyed.append)
        )
        try:
            await eventually(self._is_out, within_s=30, what="the fleet's first reports")
            yield
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await task

    async def _is_out(self) -> bool:
        return self.totals.connected == len(self.bundles) and self.totals.reports > 0


async def _fleet(servers: Servers, mishaps: CommandMishaps, *, seed: int) -> Fleet:
    ids = tuple(f"SC-{number:04d}" for number in range(1, SIZE + 1))
    await register(servers.postgres_url, ids)
    bundles = await admit(servers, ids)
    async with open_postgres(servers.postgres_url) as pool:
        await Registry(pool).set_credentials(dict.fromkeys(ids, "$7$101$c2FsdA==$aGFzaA=="), by="t")
    await register(servers.postgres_url, ids)  # a credential has to be handed over first
    odd = Mishaps(
        coverage_losses_per_h=0,
        reboots_per_h=0,
        falls_per_h=0,
        sleeps_per_h=0,
        clockless_share=0.3,
        wrong_clock_share=0.5,
        commands=mishaps,
    )
    return Fleet(FleetPlan(ids=ids, seed=seed, mishaps=odd, rides=False), bundles)


async def _keep_asking(operator: FakeOperator, scooter_id: str, scene: Scene) -> None:
    """One command after the other."""
    for number in range(scene.rounds):
        command = ("unlock", "lock")[number % 2]
        ref = await operator.ask(scooter_id, command, ttl=scene.ttl_s)
        with contextlib.suppress(AssertionError):  # told by the story below
            await operator.ended(ref, within_s=30)


def _is_one_story(statuses: Iterable[str]) -> bool:
    """One final status; after `timed_out`, which means unknown, at most one more."""
    told = list(statuses)
    ends = [status for status in told if status in FINAL]
    if not ends or told[-len(ends) :] != ends:
        return False
    return len(ends) == 1 or (len(ends) == 2 and ends[0] == "timed_out" and ends[1] in CLOSED)


SCENES = {
    "late": Scene(CommandMishaps(late=0.5, late_s=3), seed=1),
    "later than the resend": Scene(CommandMishaps(late=1, late_s=8), seed=2, rounds=1, ttl_s=12),
    "twice, wrong and foreign": Scene(CommandMishaps(twice=0.3, wrong=0.3, foreign=0.2), seed=3),
    "never, jammed and rebooting": Scene(CommandMishaps(never=0.3, jam=0.2, reboot=0.3), seed=4),
    "frozen": Scene(CommandMishaps(freezes_per_h=2000, freeze_s=3.5, never=0.1), seed=5, rounds=3),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_no_command_is_executed_late_or_twice_and_each_story_has_one_end(
    own_servers: Servers, scene: Scene
) -> None:
    await migrate(own_servers.postgres_url)
    fleet = await _fleet(own_servers, scene.mishaps, seed=scene.seed)
    stage = Stage(mosquitto_of(own_servers), own_servers.redis_url, own_servers.postgres_url)
    await stage.grant()
    async with (
        stage.gateway("g-1", fleet_secret=SecretStr(FLEET_SECRET)),
        stage.operator() as operator,
    ):
        async with fleet.riding():
            await asyncio.gather(*(_keep_asking(operator, each, scene) for each in fleet.bundles))

        async def told() -> bool:
            """The operator has heard what the ledger says, in its order."""
            refs = {each["ref"] for each in operator.replies}
            same = [await stage.moves(ref) == operator.story(ref) for ref in refs]
            return all(same)

        await eventually(told, within_s=20, what="replies that tell the ledger's story")

    rows = await stage.ask("SELECT request_id, status, expires_at FROM commands")
    until_ms = {row["request_id"]: row["expires_at"].timestamp() * 1000 for row in rows}
    assert len(rows) == SIZE * scene.rounds
    assert fleet.obeyed, Counter(row["status"] for row in rows)

    done = Counter(each.request_id for each in fleet.obeyed)
    assert max(done.values()) == 1
    for each in fleet.obeyed:
        assert each.at_ms <= until_ms[each.request_id]
        assert each.exp_ms is not None
        assert each.up_ms <= each.exp_ms
    if scene.ttl_s > scene.mishaps.late_s:
        assert fleet.totals.commands_repeated > 0
    stories = {each["ref"]: operator.story(each["ref"]) for each in operator.replies}
    assert len(stories) == SIZE * scene.rounds
    assert {ref: told for ref, told in stories.items() if not _is_one_story(told)} == {}
