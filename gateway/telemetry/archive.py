"""Reading what Postgres keeps: snapshots, events and rejects, oldest first."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import asyncpg

from gateway.telemetry.columns import SNAPSHOT

SNAPSHOT_COLUMNS: Final = ("scooter_id", "period_start", *SNAPSHOT, "stored_at")
EVENT_COLUMNS: Final = (
    *("scooter_id", "event_id", "event_type", "recorded_at", "received_at"),
    *("boot", "seq", "lat", "lon", "detail", "stored_at"),
)
REJECT_COLUMNS: Final = (
    *("scooter_id", "topic", "reason", "head", "size"),
    *("first_at", "last_at", "count"),
)

_SNAPSHOTS: Final = f"""
    SELECT {", ".join(SNAPSHOT_COLUMNS)} FROM scooter_snapshots
    WHERE scooter_id = $1 AND period_start >= $2 AND period_start < $3
    ORDER BY period_start
"""  # noqa: S608 - our own column names
_EVENTS: Final = f"""
    SELECT {", ".join(EVENT_COLUMNS)} FROM scooter_events
    WHERE scooter_id = $1 AND received_at >= $2 AND received_at < $3
    ORDER BY received_at, boot, seq
"""  # noqa: S608 - our own column names
# A row is a day's identical rejects: `day` bounds the partitions, `last_at` the answer.
_REJECTS: Final = f"""
    SELECT {", ".join(REJECT_COLUMNS)} FROM rejects
    WHERE day >= ($1 AT TIME ZONE 'UTC')::date AND last_at >= $1 AND first_at < $2
        AND ($3::text IS NULL OR scooter_id = $3)
    ORDER BY last_at
"""  # noqa: S608 - our own column names
_IS_KNOWN: Final = "SELECT EXISTS (SELECT FROM scooter_state WHERE scooter_id = $1)"


def snapshots(
    pool: asyncpg.Pool, scooter_id: str, *, since: datetime, until: datetime
) -> AsyncIterator[dict[str, Any]]:
    """One scooter's snapshots whose period began in the span (`until` is not in it)."""
    return _rows(pool, _SNAPSHOTS, scooter_id, since, until)


def events(
    pool: asyncpg.Pool, scooter_id: str, *, since: datetime, until: datetime
) -> AsyncIterator[dict[str, Any]]:
    """One scooter's events that we received in the span (`until` is not in it)."""
    return _rows(pool, _EVENTS, scooter_id, since, until)


def rejects(
    pool: asyncpg.Pool, *, since: datetime, until: datetime, scooter_id: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """What nobody could use in the span, of one scooter or of all; `head` is bytes."""
    return _rows(pool, _REJECTS, since, until, scooter_id)


async def is_known(pool: asyncpg.Pool, scooter_id: str) -> bool:
    """Whether Postgres has a state of it: a new one is there after its first snapshot period."""
    return bool(await pool.fetchval(_IS_KNOWN, scooter_id))


async def _rows(
    pool: asyncpg.Pool, statement: str, *arguments: object
) -> AsyncIterator[dict[str, Any]]:
    """Rows as they are fetched, so that months of them need no memory."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        async for record in connection.cursor(statement, *arguments, prefetch=1000):
            yield dict(record)
