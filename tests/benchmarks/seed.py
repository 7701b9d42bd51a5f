"""The seed question: is a database enough for frequent updates, and what does Redis change?

The same load through the same uplink and validation, kept in four ways. A fleet that reports every
10 s has three reports a scooter in a snapshot period of 30 s: that is the load.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final

import asyncpg

from tests.benchmarks.child import Child
from tests.benchmarks.latency import Visible, at_rate, visible_in_redis
from tests.benchmarks.load import Load
from tests.benchmarks.scenes import Scene
from tests.benchmarks.snapshots import write_one_round
from tests.benchmarks.stage import PROBE, Applied, Stage, Subject

INTERVAL_S: Final = 10
PERIOD_LAPS: Final = 3

EACH, BATCHED = "upsert_each", "upsert_batched"
BEHIND, ALONE = "redis_write_behind", "redis_alone"
WAYS: Final = {
    EACH: "one upsert a message",
    BATCHED: "batched upserts, no Redis",
    BEHIND: "Redis, write-behind",
    ALONE: "Redis alone, AOF",
}

_WAL: Final = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
_SEQ: Final = "SELECT seq FROM upserted_states WHERE scooter_id = $1"
_COUNT: Final = "SELECT count(*) FROM upserted_states WHERE scooter_id = ANY($1) AND seq = $2"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one way costs, and what is gone after a crash of its store or of its disk."""

    way: str
    messages_per_s: float
    cpu_us: Mapping[str, float]
    """Of gateway, Redis and Postgres, a message, snapshots included."""
    rows: int
    rows_per_message: float
    wal_bytes_per_message: float
    visible_p99_ms: float
    lost_by_kill: int
    """Settled reports that were gone after SIGKILL of the store and its start."""
    fleet: int
    """Scooters that report every 10 s at the measured rate."""


async def answer_seed(scene: Scene) -> None:
    """Measure the four ways one after the other on empty stores."""
    answers = []
    for way in WAYS:
        await scene.stage.empty()
        answers.append(await _measure(scene, way))
    scene.details["seed"] = {answer.way: asdict(answer) for answer in answers}
    for answer in answers:
        what = f"{WAYS[answer.way]}: scooters that report every {INTERVAL_S} s"
        scene.figures.add(f"seed_{answer.way}_fleet", what, "", [answer.fleet])


async def _measure(scene: Scene, way: str) -> Answer:
    stage, prefix = scene.stage, f"Q{list(WAYS).index(way)}"
    is_redis = way in (BEHIND, ALONE)
    postgres = await asyncpg.connect(stage.servers.postgres_url)
    look = None if is_redis else _upserted(postgres)
    asking = await asyncpg.connect(stage.servers.postgres_url)
    visible = visible_in_redis(stage) if is_redis else _visible_in_postgres(asking)
    async with _running(stage, way) as subject:
        await stage.run(stage.load(prefix, scene.scale.fleet), {"gateway": subject}, applied=look)
        if way == BEHIND:
            await write_one_round(stage, scene.scale.fleet)
        measured = await _measure_period(
            scene, way, subject, prefix=prefix, postgres=postgres, look=look
        )
        rate, rows, cpu_s, wal = measured
        messages = scene.scale.fleet * PERIOD_LAPS
        subjects = {"gateway": subject}
        _, (_, p99_ms) = await at_rate(
            scene, prefix, subjects, rate=rate / 2, visible=visible, applied=look
        )
        await postgres.close()
        await asking.close()
        load = stage.load(prefix, scene.scale.fleet)
        lost = await _lost_by_kill(stage, load, subject, way)
    return Answer(
        way=way,
        messages_per_s=rate,
        cpu_us={name: used_s / messages * 1e6 for name, used_s in cpu_s.items()},
        rows=rows,
        rows_per_message=rows / messages,
        wal_bytes_per_message=wal / messages,
        visible_p99_ms=p99_ms,
        lost_by_kill=lost,
        fleet=int(rate * INTERVAL_S),
    )


async def _measure_period(
    scene: Scene,
    way: str,
    subject: Subject,
    *,
    prefix: str,
    postgres: asyncpg.Connection,
    look: Applied | None,
) -> tuple[float, int, dict[str, float], int]:
    """Messages a second, rows, seconds of CPU and bytes of WAL of one snapshot period."""
    stage, subjects = scene.stage, {"gateway": subject}
    rows, wal = await _rows(subject), await postgres.fetchval(_WAL)
    load = stage.load(prefix, scene.scale.fleet, laps=PERIOD_LAPS)
    run = await stage.run(load, subjects, applied=look)
    seconds = run.seconds
    cpu_s = {name: run.cpu_s[name] for name in ("gateway", "redis", "postgres")}
    rows = await _rows(subject) - rows
    if way == BEHIND:
        behind = await write_one_round(stage, scene.scale.fleet)
        seconds += behind["seconds"]
        cpu_s["gateway"] += behind["cpu_s"]
        for name in ("redis", "postgres"):
            cpu_s[name] += behind[f"{name}_cpu_s"]
        rows = 2 * int(behind["rows"])  # the snapshot and the latest state
    return run.messages / seconds, rows, cpu_s, int(await postgres.fetchval(_WAL) - wal)


@asynccontextmanager
async def _running(stage: Stage, way: str) -> AsyncIterator[Subject]:
    if way == ALONE:
        running = stage.gateway(postgres_url=None)
    else:
        running = stage.gateway() if way == BEHIND else stage.other(way)
    async with running as subject:
        yield subject


async def _rows(subject: Subject) -> int:
    """Rows that an upserting gateway has written; it tells them when it is asked."""
    if not isinstance(subject.process, Child):
        return 0
    os.kill(subject.process.pid, signal.SIGUSR1)
    return int(await subject.process.hear())


def _upserted(postgres: asyncpg.Connection) -> Applied:
    async def look(load: Load, ids: Sequence[str]) -> bool:
        return int(await postgres.fetchval(_COUNT, list(ids), load.last_seq)) == len(ids)

    return look


def _visible_in_postgres(postgres: asyncpg.Connection) -> Visible:
    async def visible(seq: int) -> bool:
        return (await postgres.fetchval(_SEQ, PROBE) or 0) >= seq

    return visible


async def _lost_by_kill(stage: Stage, load: Load, subject: Subject, way: str) -> int:
    """Publish a last report of everybody, kill the store at once, start it again, and look."""
    is_redis = way in (BEHIND, ALONE)
    store = stage.servers.redis if is_redis else stage.servers.postgres
    if is_redis:
        await stage.run(load, {"gateway": subject})
    else:
        postgres = await asyncpg.connect(stage.servers.postgres_url)
        await stage.run(load, {"gateway": subject}, applied=_upserted(postgres))
        await postgres.close()
    await asyncio.to_thread(store.kill)
    await asyncio.to_thread(store.start)
    if is_redis:
        await stage.redis.connection_pool.disconnect()
        return await stage.missing(load)
    postgres = await asyncpg.connect(stage.servers.postgres_url)
    kept = await postgres.fetchval(_COUNT, load.scooter_ids(), load.last_seq)
    await postgres.close()
    return load.scooters - int(kept)
