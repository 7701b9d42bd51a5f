"""The whole system on this machine: servers, gateway, a simulated fleet and a live table."""

import asyncio
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TextIO

import orjson
import uvloop
from pydantic import SecretStr

from devices.simulator.plan import Broker, CommandMishaps, FleetPlan, Mishaps, Totals
from devices.simulator.scooter import LOG, run_fleet
from gateway.local import demo_files
from gateway.local.demo_access import OPERATOR_KEY, Fleet, provision
from gateway.local.demo_look import look_inside
from gateway.local.demo_view import LiveTable, PlainLines, View
from gateway.local.servers import Servers, free_port
from gateway.logs import set_up_logs
from gateway.metrics import Metrics
from gateway.service import run
from gateway.settings import Settings
from gateway.storage.migrate import migrate
from gateway.storage.redis import open_redis
from gateway.supervise import stop_on_signals

DRAIN_S: Final = 5.0
"""How long the gateway may take at the end to settle and store what the fleet sent last."""

_CONNECTIONS: Final = ("telemetry", "events", "control", "downlink")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `scooter demo` was asked for; `for_s` None runs until Ctrl-C."""

    scooters: int = 50
    for_s: float | None = None
    as_json: bool = False
    fresh: bool = False
    folder: Path = Path(".demo")
    period_s: float = 5.0
    pace: float = 5.0
    mishaps: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What a demo did; `balance_ok` says whether every delivery ended in one outcome."""

    scooters: int
    seconds: float
    received: int
    applied: int
    duplicate: int
    late: int
    events: int
    events_receipted: int
    rejected: int
    snapshot_rows: int
    writes_saved: int
    balance_ok: bool


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit code: 0, or 1 when the balance of deliveries is off.

    Raises ServerFailed with one sentence when a server cannot be started, or ends on its own.
    """
    say = sys.stderr if options.as_json else sys.stdout
    print("Starting Mosquitto, Redis and Postgres …", file=say, flush=True)
    with (
        Servers(options.folder, fresh=options.fresh) as servers,
        (options.folder / "gateway.log").open("a") as log,
    ):
        if options.fresh:
            demo_files.forget(options.folder)
        settings = _settings(servers, options)
        set_up_logs(settings, to=log)
        LOG.setLevel(logging.CRITICAL)  # the log is the gateway's
        demo_files.write_settings(options.folder, settings)
        demo_files.write_reader_logins(options.folder, servers)
        summary = uvloop.run(_demo(options, settings, servers, say))
        print("Stopping …", file=say, flush=True)
    _tell(summary, as_json=options.as_json)
    return 0 if summary.balance_ok else 1


async def _demo(options: DemoOptions, settings: Settings, servers: Servers, say: TextIO) -> Summary:
    await migrate(servers.postgres_url)
    metrics, totals = Metrics(), Totals()
    gateway, home, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    began = time.monotonic()
    async with open_redis(servers.redis_url) as redis:
        view: View = (LiveTable if say.isatty() else PlainLines)(redis, metrics, totals, say)
        with stop_on_signals(stop):
            async with asyncio.TaskGroup() as group:
                group.create_task(run(settings, stop=gateway, metrics=metrics))
                fleet = await _let_in(options, settings, metrics, stop)
                print(look_inside(options.folder, servers, fleet.kept_out), file=say, flush=True)
                riding = group.create_task(_ride(fleet, options, stop=home, totals=totals))
                showing = group.create_task(view.run())
                watching = group.create_task(_watch(servers))
                await _wait(stop, options.for_s)
                watching.cancel()
                showing.cancel()
                home.set()
                await riding
                await _drained(metrics, within_s=DRAIN_S)
                gateway.set()
    return _summary(metrics, totals, options, time.monotonic() - began)


async def _let_in(
    options: DemoOptions, settings: Settings, metrics: Metrics, stop: asyncio.Event
) -> Fleet:
    """Provision the fleet once the gateway's sessions are up; nobody when `stop` comes first.

    Not before: Mosquitto 2.0 may crash (eclipse-mosquitto/mosquitto#3418) when it reloads while
    sessions that it restored from its disk are still away.
    """
    while not all(metrics.value("gateway_connected", connection=each) for each in _CONNECTIONS):
        if stop.is_set():
            return Fleet(bundles=[], kept_out=[])
        await asyncio.sleep(0.02)  # gauges have no event to wait on
    ids = FleetPlan(size=options.scooters).scooter_ids()
    return await provision(settings, ids, options.folder / demo_files.BUNDLES)


async def _ride(fleet: Fleet, options: DemoOptions, *, stop: asyncio.Event, totals: Totals) -> None:
    """Each scooter with its own login, over TLS; there may be none that is let in."""
    if fleet.bundles:
        plan = FleetPlan(
            ids=tuple(each.username for each in fleet.bundles),
            pace=options.pace,
            mishaps=Mishaps(
                commands=CommandMishaps.some() if options.mishaps else CommandMishaps()
            ),
        )
        await run_fleet(plan, Broker.of_bundles(fleet.bundles), stop=stop, totals=totals)


async def _wait(stop: asyncio.Event, for_s: float | None) -> None:
    try:
        async with asyncio.timeout(for_s):
            await stop.wait()
    except TimeoutError:
        return


async def _watch(servers: Servers) -> None:
    """Raises ServerFailed when one ended on its own: what is shown would stand still."""
    while True:
        for each in (servers.mosquitto, servers.redis, servers.postgres):
            each.check()
        await asyncio.sleep(1.0)


async def _drained(metrics: Metrics, *, within_s: float) -> None:
    """Wait until what the fleet sent last is settled and its events are stored."""
    try:
        async with asyncio.timeout(within_s):
            while (  # noqa: ASYNC110 - counters have no event to wait on
                metrics.value("gateway_deliveries_in_flight")
                or metrics.value("gateway_history_entries")
            ):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return


def _settings(servers: Servers, options: DemoOptions) -> Settings:
    """All that the gateway needs, and nothing from the environment of whoever started this."""
    return Settings(
        _env_file=None,
        instance="demo",
        mqtt_host=servers.mqtt_host,
        mqtt_port=servers.mqtt_port,
        mqtt_username=servers.mqtt_username,
        mqtt_password=SecretStr(servers.mqtt_password),
        mqtt_admin_password=SecretStr(servers.mqtt_admin_password),
        mqtt_public_host=servers.mqtt_host,
        mqtt_scooters_port=servers.mqtt_scooters_port,
        mqtt_operators_port=servers.mqtt_operators_port,
        mqtt_authority_file=servers.authority_file,
        broker_password_file=servers.password_file,
        broker_reload=servers.broker_reload,
        fleet_secret=demo_files.fleet_secret(options.folder),
        operator_bundle=options.folder.absolute() / demo_files.BUNDLES / OPERATOR_KEY,
        redis_url=SecretStr(servers.redis_url),
        postgres_url=SecretStr(servers.postgres_url),
        snapshot_period_s=options.period_s,
        metrics_port=free_port(),
    )


def _summary(metrics: Metrics, totals: Totals, options: DemoOptions, seconds: float) -> Summary:
    outcomes = metrics.outcomes()
    rows = metrics.value("gateway_snapshot_rows_total")
    return Summary(
        scooters=options.scooters,
        seconds=round(seconds, 1),
        received=metrics.value("gateway_deliveries_received_total"),
        applied=outcomes["applied"],
        duplicate=outcomes["duplicate"],
        late=outcomes["late"],
        events=outcomes["event"],
        events_receipted=totals.events_receipted,
        rejected=outcomes["rejected"],
        snapshot_rows=rows,
        writes_saved=max(0, outcomes["applied"] - rows),
        balance_ok=metrics.is_balanced(),
    )


def _tell(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(asdict(summary)).decode())
        return
    for name, value in asdict(summary).items():
        print(f"{name.replace('_', ' '):>17}  {value}")
