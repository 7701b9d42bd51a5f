"""Write-behind: what changed in Redis goes to Postgres, at most one row a scooter and period."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import asyncpg
import orjson
import structlog
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.storage.postgres import AWAY, is_bad_row, transaction
from gateway.telemetry.columns import MS_COLUMNS, SNAPSHOT, STATE, copy_line
from gateway.telemetry.scripts import script
from gateway.telemetry.state_store import CLAIMS, DIRTY, redis_translated

log = structlog.get_logger()

_AWAY: Final[tuple[type[BaseException], ...]] = (ServerAway, *AWAY)
_GIVING_UP: Final[tuple[type[BaseException], ...]] = (*AWAY, asyncio.CancelledError)

Step = Callable[[str], Awaitable[None]]
"""Told after each step of a chunk: claimed, copied, written, committed, cleared."""

_POLL_S: Final = 0.05

CHUNK: Final = 1000
LANES: Final = 4
"""Chunks on their way at once, so that Redis and Postgres do not wait for each other."""

CLAIM_MS: Final = 30_000
"""How long a chunk is one writer's; another may take it after, and writes the same rows."""

_TYPES: Final = {
    **dict.fromkeys(MS_COLUMNS, "bigint"),
    **dict.fromkeys(("uptime_ms", "boot"), "bigint"),
    **dict.fromkeys(("charging", "tipped_over"), "boolean"),
    **dict.fromkeys(("battery_id", "lock", "firmware", "presence"), "text"),
}
_STAGE: Final = "CREATE TEMP TABLE IF NOT EXISTS snapshot_stage ({}) ON COMMIT DELETE ROWS".format(
    ", ".join(
        [
            "scooter_id text",
            "version bigint",
            *(f"{name} {_TYPES.get(name, 'double precision')}" for name in STATE),
            "fields jsonb",
        ]
    )
)


def _select(names: tuple[str, ...]) -> str:
    return ", ".join(
        f"to_timestamp({name} / 1000::float8)" if name in MS_COLUMNS else name for name in names
    )


def _changed(names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} = EXCLUDED.{name}" for name in ("version", *names, "stored_at"))


# A version is our clock in µs, so that the same state always falls into the same period. Rows are
# taken in order, so that two writers of the same chunk wait for each other and never deadlock.
_SNAPSHOTS: Final = f"""
    INSERT INTO scooter_snapshots AS s (scooter_id, period_start, version, {", ".join(SNAPSHOT)})
    SELECT scooter_id,
        to_timestamp(floor(version / 1000000::float8 / $1::float8) * $1::float8),
        version, {_select(SNAPSHOT)}
    FROM snapshot_stage ORDER BY scooter_id
    ON CONFLICT (scooter_id, period_start) DO UPDATE SET {_changed(SNAPSHOT)}
        WHERE EXCLUDED.version > s.version
"""  # noqa: S608 - our own column names
_STATES: Final = f"""
    INSERT INTO scooter_state AS s (scooter_id, version, {", ".join(STATE)}, fields)
    SELECT scooter_id, version, {_select(STATE)}, fields FROM snapshot_stage ORDER BY scooter_id
    ON CONFLICT (scooter_id) DO UPDATE SET {_changed((*STATE, "fields"))}
        WHERE EXCLUDED.version > s.version
"""  # noqa: S608 - as above


class Claimed(NamedTuple):
    """A dirty scooter's hash as it stood when this writer took it; without names if it is gone."""

    scooter_id: str
    names: tuple[str, ...]
    values: list[str]

    @property
    def version(self) -> str:
        return self.values[self.names.index("version")] if "version" in self.names else ""


class DirtySet:
    """The scooters that are newer than their snapshot. Raises ServerAway while Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(script("claim"))
        self._clear = redis.register_script(script("clear"))

    async def now_ms(self) -> int:
        """Redis' clock, by which marks are made."""
        with redis_translated():
            seconds, micros = await self._redis.time()
        return seconds * 1000 + micros // 1000

    async def claim(
        self, *, marked_before_ms: int, at_most: int = CHUNK, skip: int = 0
    ) -> list[Claimed]:
        """Take up to `at_most` scooters that no other writer holds, with their states.

        The `skip` oldest marks are not looked at: for who holds about as many already.
        """
        with redis_translated():
            found: list[bytes] = await self._claim(args=[marked_before_ms, at_most, CLAIM_MS, skip])
        return [_claimed(text.decode(errors="replace")) for text in found]

    async def clear(self, written: list[Claimed]) -> None:
        """Clear the marks of committed scooters; what moved on since stays dirty from now."""
        said = [text for one in written for text in (one.scooter_id, one.version)]
        with redis_translated():
            await self._clear(args=[orjson.dumps(said)])

    async def release(self, claimed: list[Claimed]) -> None:
        """Give scooters back whose writing failed, for the next round or another writer."""
        with redis_translated():
            await self._redis.hdel(CLAIMS, *[one.scooter_id for one in claimed])

    async def age(self, now_ms: int) -> tuple[int, float]:
        """How many are dirty, and the age of the oldest mark in seconds."""
        with redis_translated():
            count = await self._redis.zcard(DIRTY)
            oldest: Any = await self._redis.zrange(DIRTY, 0, 0, withscores=True)
        return count, max(0.0, (now_ms - oldest[0][1]) / 1000) if oldest else 0.0


def _claimed(text: str) -> Claimed:
    """From `field NUL value NUL … id`."""
    flat = text.split("\0")
    scooter_id = flat.pop()
    claimed = Claimed(scooter_id, tuple(flat[::2]), flat[1::2])
    if len(flat) % 2:  # someone else put a NUL in: Postgres shall refuse it, which is told
        claimed.values.append("")
        return Claimed(scooter_id, ("version", "charging"), [claimed.version, "unreadable"])
    return claimed


async def let_snapshot_end(redis: Redis, scooter_id: str, deadline: float) -> None:
    """Wait until nobody writes a snapshot of this scooter, or `deadline` on the monotonic clock.

    For what removes the state that such a snapshot was begun with.
    """
    while time.monotonic() < deadline:
        until_ms = await redis.hget(CLAIMS, scooter_id)
        if until_ms is None or not until_ms.isdigit() or int(until_ms) < time.time() * 1000:
            return
        await asyncio.sleep(_POLL_S)


async def _no_step(_name: str) -> None:
    pass


async def write_chunk(
    pool: asyncpg.Pool, claimed: list[Claimed], *, period_s: float, step: Step = _no_step
) -> int:
    """Write snapshots and states of a chunk in one transaction; returns the snapshot rows.

    Writing the same again changes nothing, and an older version changes nothing.
    """
    lines = "".join(
        copy_line(one.scooter_id, one.names, one.values) for one in claimed if one.names
    )
    if not lines:
        return 0
    async with pool.acquire() as connection:
        await connection.execute(_STAGE)
        async with transaction(connection):
            await connection.copy_to_table(
                "snapshot_stage", source=memoryview(lines.encode()), schema_name="pg_temp"
            )
            await step("copied")
            tag = await connection.execute(_SNAPSHOTS, period_s)
            await connection.fetch(_STATES)  # which, unlike `execute`, keeps the plan
            await step("written")
    await step("committed")
    return int(tag.split()[-1])


async def write_round(
    dirty: DirtySet,
    pool: asyncpg.Pool,
    *,
    period_s: float,
    metrics: Metrics,
    step: Step = _no_step,
) -> int:
    """Write everything that was dirty when the round began; returns the snapshot rows."""
    began_ms = await dirty.now_ms()
    rows = held = 0

    async def write_in_turn() -> None:
        nonlocal rows, held
        # Whoever asks last skips nothing, so that nothing is left.
        while claimed := await dirty.claim(marked_before_ms=began_ms, skip=held):
            held += len(claimed)
            await step("claimed")
            try:
                with metrics.snapshot_seconds.time():
                    written = await _write_good(pool, claimed, period_s=period_s, step=step)
            except _GIVING_UP as error:
                await _give_back(dirty, claimed, error)
                raise
            metrics.snapshot_rows.inc(written)
            rows += written
            await dirty.clear(claimed)
            held -= len(claimed)
            await step("cleared")

    # Not a task group: a lane that fails must not stop another one that gives its chunk back.
    lanes = [
        asyncio.create_task(write_in_turn(), name=f"snapshot lane {number}")
        for number in range(LANES)
    ]
    errors = [e for e in await asyncio.gather(*lanes, return_exceptions=True) if e is not None]
    if errors:  # an outage that one lane met must not hide another's defect
        raise next((error for error in errors if not isinstance(error, _AWAY)), errors[0])
    return rows


async def _give_back(dirty: DirtySet, claimed: list[Claimed], error: BaseException) -> None:
    """Let the next round or another writer have a chunk, and forget it.

    An error is part of a cycle: through its frames it would keep the chunk, and one more each
    round of an outage, until a full garbage collection.
    """
    try:
        with suppress(ServerAway):
            await dirty.release(claimed)
    finally:
        claimed.clear()
        traceback.clear_frames(error.__traceback__)


async def _write_good(
    pool: asyncpg.Pool, claimed: list[Claimed], *, period_s: float, step: Step
) -> int:
    """Write a chunk; halve it around a state that Postgres cannot take, and tell which it is.

    Only someone else's hand in Redis makes such a state: what we fold was validated.
    """
    try:
        return await write_chunk(pool, claimed, period_s=period_s, step=step)
    except asyncpg.PostgresError as error:
        if not is_bad_row(error):
            raise
        if len(claimed) == 1:
            # Not the message: it quotes the row, and with it the position.
            scooter_id, reason = claimed[0].scooter_id, f"SQLSTATE {error.sqlstate}"
            log.error("state cannot be stored", scooter_id=scooter_id, reason=reason)  # noqa: TRY400 - told once, in full
            return 0
    half = len(claimed) // 2
    rows = await _write_good(pool, claimed[:half], period_s=period_s, step=step)
    return rows + await _write_good(pool, claimed[half:], period_s=period_s, step=step)


async def write_snapshots(
    dirty: DirtySet, pool: asyncpg.Pool, *, period_s: float, metrics: Metrics
) -> None:
    """A round at the end of each period, for ever; a server away costs resolution, nothing else.

    Periods end for every gateway at once, so that several share a round: each by its own beat
    would write a scooter that reports all the time once a gateway and period.
    """
    outage = Outage("writing snapshots")
    due = _period_end(time.time(), period_s)
    while True:
        await asyncio.sleep(min(period_s, max(0.0, due - time.time())))
        due = _period_end(max(due, time.time()), period_s)
        try:
            await write_round(dirty, pool, period_s=period_s, metrics=metrics)
            outage.back()
        except _AWAY as error:
            due = time.time() + min(period_s, outage.away(error))


def _period_end(now_s: float, period_s: float) -> float:
    return (now_s // period_s + 1) * period_s
