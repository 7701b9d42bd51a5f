"""A simulated fleet at a broker that runs already, provisioned as any other."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import uvloop

from devices.console.output import talk
from devices.simulator.plan import Broker, CommandMishaps, FleetPlan, Mishaps, Totals
from devices.simulator.scooter import run_fleet
from gateway.local.demo_access import provision
from gateway.settings import Settings
from gateway.supervise import stop_on_signals


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """What `scooter simulate` was asked for; `for_s` None rides until a signal."""

    scooters: int
    bundles: Path
    pace: float
    for_s: float | None
    mishaps: bool


def simulate(options: SimulationOptions, settings: Settings) -> None:
    """Provision, ride and go home; raises what `scooter devices import` raises."""
    uvloop.run(_simulate(options, settings))


async def _simulate(options: SimulationOptions, settings: Settings) -> None:
    stop, totals = asyncio.Event(), Totals()
    ids = FleetPlan(size=options.scooters).scooter_ids()
    with stop_on_signals(stop):
        fleet = await provision(settings, ids, options.bundles)
        if fleet.kept_out:
            talk(f"kept out: {', '.join(fleet.kept_out)}")
        if not fleet.bundles:
            return
        mishaps = CommandMishaps.some() if options.mishaps else CommandMishaps()
        plan = FleetPlan(
            ids=tuple(each.username for each in fleet.bundles),
            pace=options.pace,
            mishaps=Mishaps(commands=mishaps),
        )
        talk(f"{len(fleet.bundles)} scooters ride")
        ending = asyncio.create_task(_end(stop, options.for_s), name="end of the ride")
        await run_fleet(plan, Broker.of_bundles(fleet.bundles), stop=stop, totals=totals)
        ending.cancel()
    talk(f"{totals.sent} messages, {totals.events_receipted} events receipted")


async def _end(stop: asyncio.Event, for_s: float | None) -> None:
    if for_s is not None:
        await asyncio.sleep(for_s)
        stop.set()
