"""Read-through, and the refill of an emptied Redis from Postgres."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.links.delivery import Delivery, Outcome
from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.ingest import ingest
from gateway.telemetry.reader import Refiller, read_through
from gateway.telemetry.snapshots import DirtySet, write_chunk
from gateway.telemetry.state_store import INTERNAL, LOADED, StateStore
from tests.telemetry import FULL_REPORT, NOW_MS, STALE_AFTER_S, Fleet, status, telemetry

ID = "SC-0001"
NOBODY = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
def refiller(redis: Redis, pool: asyncpg.Pool) -> Refiller:
    return Refiller(redis, pool, stale_after_s=STALE_AFTER_S)


async def store(fleet: Fleet, pool: asyncpg.Pool) -> None:
    """Bring what is dirty to Postgres."""
    dirty = DirtySet(fleet.redis)
    claimed = await dirty.claim(marked_before_ms=await dirty.now_ms() + 1000, at_most=10_000)
    await write_chunk(pool, claimed, period_s=60)
    await dirty.clear(claimed)


async def test_a_state_is_read_from_redis_first(
    fleet: Fleet, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1))
    await store(fleet, pool)
    await fleet.take(telemetry(ID, boot=1, seq=2, batt=2))

    found = await read_through(ID, states=fleet.states, refiller=refiller)

    assert found is not None
    assert (found.source, found.state["battery_percent"]) == ("redis", "2")


async def test_a_state_that_redis_lost_comes_from_postgres_and_goes_back(
    fleet: Fleet, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.take(telemetry(ID, **FULL_REPORT))
    await store(fleet, pool)
    before = await fleet.everything(ID)
    await fleet.redis.delete(f"scooter:{ID}")

    found = await read_through(ID, states=fleet.states, refiller=refiller)

    assert found is not None
    assert found.source == "postgres"
    assert found.state == await fleet.state(ID)
    assert not INTERNAL & found.state.keys()
    assert await fleet.everything(ID) == before


async def test_a_scooter_that_nobody_knows_is_unknown(fleet: Fleet, refiller: Refiller) -> None:
    assert await read_through("SC-9999", states=fleet.states, refiller=refiller) is None


async def test_postgres_answers_while_redis_is_away(fleet: Fleet, pool: asyncpg.Pool) -> None:
    await fleet.take(telemetry(ID, batt=5))
    await store(fleet, pool)
    async with open_redis("redis://127.0.0.1:1") as nobody:
        states = StateStore(nobody, stale_after_s=STALE_AFTER_S, history_max_bytes=1)
        refiller = Refiller(nobody, pool, stale_after_s=STALE_AFTER_S)

        found = await read_through(ID, states=states, refiller=refiller)
        unknown = await read_through("SC-9999", states=states, refiller=refiller)

    assert found is not None
    assert (found.source, found.state["battery_percent"]) == ("postgres", "5")
    assert unknown is None


async def test_an_outage_never_reads_as_unknown(fleet: Fleet) -> None:
    async with open_postgres(NOBODY) as nowhere:
        refiller = Refiller(fleet.redis, nowhere, stale_after_s=STALE_AFTER_S)
        with pytest.raises(ServerAway):
            await read_through("SC-9999", states=fleet.states, refiller=refiller)
        await fleet.redis.delete(LOADED)
        with pytest.raises(ServerAway):
            await refiller.fleet()
    assert await fleet.redis.exists(LOADED) == 0


async def test_a_refill_puts_states_positions_and_deadlines_back(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.load()
    await fleet.take(
        telemetry(ID, **FULL_REPORT), status("SC-0002", "online"), telemetry("SC-0003", batt=1)
    )
    await fleet.take(
        status("SC-0003", "sleeping"), *(telemetry(f"X-{n}", lat=1, lon=n / 10) for n in range(600))
    )
    await store(fleet, pool)
    before = [await fleet.everything(each) for each in (ID, "SC-0002", "SC-0003", "X-599")]
    await redis_admin.flushall()

    assert await refiller.fleet() == 603

    after = [await fleet.everything(each) for each in (ID, "SC-0002", "SC-0003", "X-599")]
    assert after == before
    assert await fleet.redis.exists(LOADED) == 1
    assert await refiller.fleet() == 0


async def test_a_place_that_redis_refuses_keeps_no_other_scooter_off_the_map(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.load()
    await fleet.take(*(telemetry(f"X-{n:02}", lat=1, lon=n / 1000) for n in range(10)))
    await store(fleet, pool)
    await pool.execute("UPDATE scooter_state SET lon = 999 WHERE scooter_id = 'X-05'")
    await redis_admin.flushall()

    assert await refiller.fleet() == 10

    found = [scooter_id for scooter_id, _ in await fleet.states.near(1, 0, within_m=10_000)]
    assert sorted(found) == [f"X-{n:02}" for n in range(10) if n != 5]


async def test_a_refill_never_overwrites_a_newer_state(
    fleet: Fleet, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.take(telemetry(ID, boot=1, seq=1, batt=1))
    await store(fleet, pool)
    await fleet.take(telemetry(ID, boot=1, seq=2, batt=2))
    before = await fleet.everything(ID)
    await fleet.redis.delete(LOADED)

    assert await refiller.fleet() == 0

    assert await fleet.everything(ID) == before


async def test_after_a_refill_late_reports_are_late_and_versions_grow(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.load()
    await fleet.take(telemetry(ID, boot=3, seq=9, batt=9, odo=1, sig=-1))
    await store(fleet, pool)
    version = int((await fleet.state(ID))["version"])
    await redis_admin.flushall()
    await refiller.fleet()

    outcomes = await fleet.take(
        telemetry(ID, boot=3, seq=8, batt=8), telemetry(ID, boot=3, seq=10, odo=2)
    )

    state = await fleet.state(ID)
    assert outcomes == ["late", "applied"]
    assert (state["battery_percent"], state["odometer_m"]) == ("9", "2")
    assert "signal_dbm" not in state
    assert int(state["version"]) > version


async def test_a_version_from_the_future_still_grows(
    fleet: Fleet, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    future = 2_500_000_000_000_000
    fields = {"version": str(future), "report_order": "1:5:0:", "boot": "1"}
    await pool.execute(
        "INSERT INTO scooter_state (scooter_id, version, fields) VALUES ($1, $2, $3::jsonb)",
        ID,
        future,
        orjson.dumps(fields).decode(),
    )
    await fleet.redis.delete(LOADED)
    await refiller.fleet()

    await fleet.take(telemetry(ID, boot=1, seq=6, batt=6))

    assert (await fleet.state(ID))["version"] == str(future + 1)


async def test_a_row_that_is_no_state_does_not_stop_the_refill(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.load()
    await fleet.take(telemetry("SC-0002", boot=1, seq=1, batt=2), telemetry("SC-0009", batt=2))
    await store(fleet, pool)
    await redis_admin.flushall()
    await redis_admin.set("scooter:SC-0009", "x")
    rows = ["{}", '{"version":"none"}', '{"version":"5","lat":[1]}', '{"version":"5","boots":7}']
    for number, fields in enumerate(rows):
        await pool.execute(
            "INSERT INTO scooter_state (scooter_id, version, fields) VALUES ($1, 1, $2::jsonb)",
            f"SC-100{number}",
            fields,
        )

    await refiller.fleet()

    assert (await fleet.state("SC-0002"))["battery_percent"] == "2"
    assert await fleet.redis.exists(LOADED) == 1


async def test_a_redis_emptied_again_during_the_refill_is_not_declared_loaded(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool
) -> None:
    await fleet.load()
    await fleet.take(telemetry(ID, batt=1))
    await store(fleet, pool)
    await redis_admin.flushall()

    class EmptiedAgain(Refiller):
        emptied = False

        async def _put_back(self, rows: list[asyncpg.Record]) -> int:
            count = await super()._put_back(rows)
            if not self.emptied:
                self.emptied = True
                await redis_admin.flushall()
            return count

    refiller = EmptiedAgain(fleet.redis, pool, stale_after_s=STALE_AFTER_S)
    with pytest.raises(ServerAway):
        await refiller.fleet()
    assert await fleet.redis.exists(LOADED) == 0

    assert await refiller.fleet() == 1
    assert await redis_admin.keys("scooters:loaded*") == [LOADED.encode()]


async def test_two_who_refill_at_once_put_everything_back_once(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool
) -> None:
    await fleet.load()
    await fleet.take(*(telemetry(f"SC-{n:04}", batt=n % 100) for n in range(50)))
    await store(fleet, pool)
    await redis_admin.flushall()
    both = [Refiller(fleet.redis, pool, stale_after_s=STALE_AFTER_S) for _ in range(2)]

    counts = await asyncio.gather(*(refiller.fleet() for refiller in both))

    assert sum(counts) == 50
    assert (await fleet.state("SC-0049"))["battery_percent"] == "49"


class OneBatch:
    """What the uplink would hand over, with a broker that forgets nothing."""

    is_abandoned = False

    def __init__(self, *deliveries: Delivery) -> None:
        self.deliveries = list(deliveries)
        self.received_ms = NOW_MS
        self.outcomes: list[Outcome | None] = []

    def settle(self, outcomes: Sequence[Outcome | None]) -> None:
        self.outcomes += outcomes
        self.deliveries = []


async def test_ingest_refills_an_emptied_redis_and_goes_on(
    fleet: Fleet, redis_admin: Redis, pool: asyncpg.Pool, refiller: Refiller
) -> None:
    await fleet.load()
    await fleet.take(telemetry(ID, boot=1, seq=5, batt=5, lat=1, lon=1))
    await store(fleet, pool)
    await redis_admin.flushall()
    batch = OneBatch(
        telemetry(ID, boot=1, seq=4, batt=4), telemetry(ID, boot=1, seq=6, lat=2, lon=2)
    )

    async def inbox() -> AsyncIterator[OneBatch]:
        yield batch

    await ingest(
        inbox(), states=fleet.states, refill=refiller.fleet, metrics=Metrics(), session="telemetry"
    )

    state = await fleet.state(ID)
    assert batch.outcomes == ["late", "applied"]
    assert (state["battery_percent"], state["lat"]) == ("5", "2")
