"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol, TextIO

from redis.asyncio import Redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from devices.simulator.plan import Totals
from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.telemetry.state_store import LAST_SEEN, SCOOTER, redis_translated

REFRESH_S: Final = 0.5
LINE_PERIOD_S: Final = 2.0
_ROWS_MOST: Final = 20
"""More would push the lines to paste off a usual screen."""
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
        rows = max(5, min(self._console.height - 9, _ROWS_MOST))
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
