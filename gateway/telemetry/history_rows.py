"""History rows into Postgres: set by set, each once; a bad row becomes a reject."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import asyncpg
import structlog

from gateway.storage.postgres import is_bad_row, transaction
from gateway.telemetry.history_entries import Entry, Event, LateReport, Reject, Row

log = structlog.get_logger()

# A key that is known already yields no row: a re-sent message is not stored again.
_STORE_EVENTS: Final = """
    WITH given AS (
        SELECT * FROM unnest(
            $1::text[], $2::text[], $3::date[], $4::text[], $5::text[], $6::timestamptz[],
            $7::timestamptz[], $8::bigint[], $9::bigint[], $10::float8[], $11::float8[], $12::text[]
        ) AS g (scooter_id, key, day, event_id, event_type, recorded_at,
                received_at, boot, seq, lat, lon, detail)
    ), fresh AS (
        INSERT INTO history_keys (scooter_id, key, received_on)
        SELECT scooter_id, key, day FROM given
        ON CONFLICT DO NOTHING RETURNING scooter_id, key
    )
    INSERT INTO scooter_events (scooter_id, event_id, event_type, recorded_at, received_at,
                                boot, seq, lat, lon, detail)
    SELECT scooter_id, event_id, event_type, recorded_at, received_at, boot, seq, lat, lon, detail
    FROM given JOIN fresh USING (scooter_id, key)
"""

_STORE_LATE: Final = """
    WITH given AS (
        SELECT * FROM unnest(
            $1::text[], $2::text[], $3::date[], $4::timestamptz[], $5::timestamptz[],
            $6::bigint[], $7::bigint[], $8::float8[], $9::float8[], $10::jsonb[]
        ) AS g (scooter_id, key, day, recorded_at, received_at, boot, seq, lat, lon, body)
    ), fresh AS (
        INSERT INTO history_keys (scooter_id, key, received_on)
        SELECT scooter_id, key, day FROM given
        ON CONFLICT DO NOTHING RETURNING scooter_id, key
    )
    INSERT INTO late_reports (scooter_id, recorded_at, received_at, boot, seq, lat, lon, body)
    SELECT scooter_id, recorded_at, received_at, boot, seq, lat, lon, body
    FROM given JOIN fresh USING (scooter_id, key)
"""

# Adding is safe because the cursor is stored in the same transaction.
_COUNT_REJECTS: Final = """
    INSERT INTO rejects (day, hash, scooter_id, topic, reason, head, size, first_at, last_at, count)
    SELECT * FROM unnest(
        $1::date[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::int[],
        $8::timestamptz[], $9::timestamptz[], $10::bigint[]
    )
    ON CONFLICT (day, hash) DO UPDATE SET
        count = rejects.count + excluded.count,
        first_at = least(rejects.first_at, excluded.first_at),
        last_at = greatest(rejects.last_at, excluded.last_at)
"""


async def store(connection: asyncpg.Connection, entries: Sequence[Entry]) -> list[Row]:
    """Store `entries` within the caller's transaction; returns what each became, in order.

    An entry that Postgres refuses for what it holds is stored as a reject instead. Raises what
    the driver raises when Postgres is at fault; then nothing of this counts.
    """
    return await _store(connection, entries, [entry.parse() for entry in entries])


async def _store(
    connection: asyncpg.Connection, entries: Sequence[Entry], rows: list[Row]
) -> list[Row]:
    try:
        async with transaction(connection):
            await _insert(connection, rows)
    except asyncpg.PostgresError as error:
        if not is_bad_row(error):
            raise
        if len(rows) > 1:
            half = len(rows) // 2
            first = await _store(connection, entries[:half], rows[:half])
            return first + await _store(connection, entries[half:], rows[half:])
        if isinstance(rows[0], Reject):
            raise
        log.warning("history entry kept as reject", sqlstate=error.sqlstate)
        reject = entries[0].reject(f"cannot be stored: SQLSTATE {error.sqlstate}")
        return await _store(connection, entries, [reject])
    return rows


async def _insert(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    events: dict[tuple[str, str], Event] = {}
    late: dict[tuple[str, str], LateReport] = {}
    rejects: dict[tuple[date, bytes], _Same] = {}
    for row in rows:
        match row:
            case Event():
                events.setdefault((row.scooter_id, row.key), row)
            case LateReport():
                late.setdefault((row.scooter_id, row.key), row)
            case Reject():
                rejects.setdefault((row.day, row.hash), _Same(row, row.received_at)).add(row)
    if events:
        await connection.execute(_STORE_EVENTS, *_arrays(map(_event_columns, events.values())))
    if late:
        await connection.execute(_STORE_LATE, *_arrays(map(_late_columns, late.values())))
    if rejects:
        await connection.execute(
            _COUNT_REJECTS, *_arrays(each.columns() for each in rejects.values())
        )


def _arrays(rows: Iterable[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    return zip(*rows, strict=True)


def _event_columns(event: Event) -> tuple[object, ...]:
    body = event.body
    return (
        event.scooter_id,
        event.key,
        event.received_at.date(),
        body["id"],
        body["ev"],
        event.recorded_at,
        event.received_at,
        body.get("boot"),
        body.get("seq"),
        body.get("lat"),
        body.get("lon"),
        body.get("d"),
    )


def _late_columns(report: LateReport) -> tuple[object, ...]:
    body = report.body
    return (
        report.scooter_id,
        report.key,
        report.received_at.date(),
        report.recorded_at,
        report.received_at,
        body.get("boot"),
        body.get("seq"),
        body.get("lat"),
        body.get("lon"),
        report.text,
    )


@dataclass(slots=True)
class _Same:
    """Identical rejects of a batch, as one."""

    reject: Reject
    first_at: datetime
    last_at: datetime | None = None
    count: int = 0

    def add(self, reject: Reject) -> None:
        self.first_at = min(self.first_at, reject.received_at)
        self.last_at = max(self.last_at or reject.received_at, reject.received_at)
        self.count += 1

    def columns(self) -> tuple[object, ...]:
        reject = self.reject
        return (
            reject.day,
            reject.hash,
            reject.scooter_id,
            reject.topic,
            reject.reason,
            reject.head,
            reject.size,
            self.first_at,
            self.last_at,
            self.count,
        )
