"""The seed question's ways without Redis: our uplink and validation, and one table in Postgres."""

import asyncio
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from gateway.links.broker import broker_address
from gateway.links.delivery import Outcome
from gateway.links.plans import session_plans
from gateway.links.uplink import Session
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.telemetry.decode import Message, decode

TABLE: Final = """
    CREATE TABLE IF NOT EXISTS upserted_states (
        scooter_id text PRIMARY KEY, received_at timestamptz NOT NULL, recorded_at timestamptz,
        boot bigint, seq bigint, lat double precision, lon double precision,
        accuracy_m double precision, speed_kmh double precision, heading_deg double precision,
        battery_percent double precision, battery_mv double precision, charging boolean,
        lock text
    ) WITH (fillfactor = 70)
"""
_COLUMNS: Final = {
    "scooter_id": "text",
    "received_at": "timestamptz",
    "recorded_at": "timestamptz",
    "boot": "bigint",
    "seq": "bigint",
    "lat": "float8",
    "lon": "float8",
    "accuracy_m": "float8",
    "speed_kmh": "float8",
    "heading_deg": "float8",
    "battery_percent": "float8",
    "battery_mv": "float8",
    "charging": "boolean",
    "lock": "text",
}
_UPDATE: Final = "ON CONFLICT (scooter_id) DO UPDATE SET {} WHERE {} > {}".format(
    ", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS if name != "scooter_id"),
    "(EXCLUDED.boot, EXCLUDED.seq)",
    "(upserted_states.boot, upserted_states.seq)",
)
_ONE: Final = "INSERT INTO upserted_states VALUES ({}) {}".format(  # noqa: S608 - our own names
    ", ".join(f"${number}" for number in range(1, len(_COLUMNS) + 1)), _UPDATE
)
_MANY: Final = "INSERT INTO upserted_states SELECT * FROM unnest({}) {}".format(  # noqa: S608 - as above
    ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_COLUMNS.values(), 1)), _UPDATE
)
_WIRES: Final = ("lat", "lon", "acc", "spd", "hdg", "batt", "mv", "chg", "lock")

WRITERS: Final = 10
"""Connections that write single upserts side by side: commits wait for the disk together."""

Row = tuple[Any, ...]


async def run_upserts(settings: Settings, *, batched: bool) -> None:
    """Serve for ever; prints `ready` once it is subscribed."""
    assert settings.postgres_url is not None

    async def may_connect() -> bool:
        return True

    session = Session(
        session_plans(settings).telemetry,
        broker_address(settings),
        Metrics(),
        may_connect=may_connect,
    )
    url = settings.postgres_url.get_secret_value()
    writers = [await asyncpg.connect(url) for _ in range(1 if batched else WRITERS)]
    rows_written = 0

    def tell_rows() -> None:
        print(rows_written, flush=True)  # noqa: T201 - the benchmark asked

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell_rows)
    async with asyncio.TaskGroup() as group:
        group.create_task(session.run())
        group.create_task(_tell_ready(session))
        async for batch in session.batches():
            rows = [_row(decode(each), batch.received_ms) for each in batch.deliveries]
            upserted = _upsert_all(writers[0], rows) if batched else _upsert_each(writers, rows)
            rows_written += await upserted
            batch.settle([Outcome.APPLIED] * len(rows))


async def _tell_ready(session: Session) -> None:
    while not session.connected:  # noqa: ASYNC110 - a session has no event for it
        await asyncio.sleep(0.01)
    print("ready", flush=True)  # noqa: T201 - the benchmark waits for it


def _row(message: Message, received_ms: int) -> Row:
    body = message.body
    assert isinstance(body, dict)
    ts = body.get("ts")
    return (
        message.scooter_id,
        datetime.fromtimestamp(received_ms / 1000, UTC),
        datetime.fromtimestamp(ts / 1000, UTC) if ts else None,
        *(body.get("boot"), body.get("seq")),
        *(body.get(wire) for wire in _WIRES),
    )


async def _upsert_all(writer: asyncpg.Connection, rows: Sequence[Row]) -> int:
    """One statement for the batch, with the newest report of each scooter."""
    newest: dict[str, Row] = {}
    for row in rows:
        known = newest.get(row[0])
        if known is None or row[3:5] > known[3:5]:
            newest[row[0]] = row
    await writer.execute(_MANY, *map(list, zip(*newest.values(), strict=True)))
    return len(newest)


async def _upsert_each(writers: Sequence[asyncpg.Connection], rows: Sequence[Row]) -> int:
    """A statement and a commit for each report; the writers share them."""
    waiting = iter(rows)

    async def write(writer: asyncpg.Connection) -> None:
        for row in waiting:
            await writer.execute(_ONE, *row)

    await asyncio.gather(*(write(writer) for writer in writers))
    return len(rows)
