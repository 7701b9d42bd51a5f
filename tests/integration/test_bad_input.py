"""Whatever arrives is kept as what it is or as a reject, and harms nothing else in its batch."""

import json

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from devices.contract.topics import Uplink, uplink
from gateway.links.delivery import Delivery
from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.telemetry.entries import entry_of
from gateway.telemetry.history import History
from gateway.telemetry.scripts import script
from gateway.telemetry.snapshots import DirtySet, write_chunk
from gateway.telemetry.state_store import LOADED
from tests.history import Receipts
from tests.telemetry import FULL_REPORT, NOW_MS, Fleet, delivery, event, telemetry

ID = "SC-0001"
TELEMETRY = uplink(ID, Uplink.TELEMETRY)
OUTCOMES = {"applied", "duplicate", "late", "event", "presence", "ack", "rejected"}

BAD = {
    "not UTF-8": Delivery(TELEMETRY, b'{"bid":"\xff"}'),
    "not JSON": Delivery(TELEMETRY, b"batt=5"),
    "NaN": Delivery(TELEMETRY, b'{"batt":NaN}'),
    "NaN unknown": Delivery(TELEMETRY, b'{"x":NaN}'),
    "Infinity": Delivery(TELEMETRY, b'{"odo":-Infinity}'),
    "wrong type": telemetry(ID, batt="5"),
    "out of range": telemetry(ID, batt=101),
    "unknown topic": Delivery("scooters/SC-0001/weather", b"{}"),
    "oversize": telemetry(ID, x="y" * 8192),
    "bad id": Delivery("scooters/x/telemetry", b"{}"),
    "wildcard-like id": Delivery("scooters/$SC/telemetry", b"{}"),
    "empty": Delivery(TELEMETRY, b""),
    "retained": delivery(ID, Uplink.TELEMETRY, {"batt": 5}, retain=True),
    "NUL": telemetry(ID, bid="a\0"),
    "beyond 64 bits": Delivery(TELEMETRY, b'{"ts":99999999999999999999}'),
    "deep": Delivery(TELEMETRY, b"[" * 4000 + b"]" * 4000),
    "lat alone": telemetry(ID, lat=5),
    "event": delivery(ID, Uplink.EVENTS, {"id": "12-17", "ev": 5}),
    "empty batch": delivery(ID, Uplink.TELEMETRY_BATCH, []),
    "bad status": delivery(ID, Uplink.STATUS, {"s": "fine"}, retain=True),
    "bad ack": delivery(ID, Uplink.ACKS, {"request_id": "1"}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_bad_input_becomes_one_reject_row_and_its_batch_is_kept(
    redis: Redis, postgres_url: str, bad: Delivery
) -> None:
    fleet, receipts = Fleet(redis), Receipts()
    await fleet.load()

    outcomes = await fleet.take(telemetry("SC-0002", batt=1), bad, event("SC-0003", "1"))

    assert outcomes == ["applied", "rejected", "event"]
    assert await fleet.state(ID) == {}
    async with open_postgres(postgres_url) as pool:
        await History(redis, pool, send_receipts=receipts, metrics=Metrics()).take()
        row = await pool.fetchrow("SELECT * FROM rejects")
        assert await pool.fetchval("SELECT count(*) FROM scooter_events") == 1
    assert (row["topic"], row["size"], row["count"]) == (bad.topic, len(bad.payload), 1)
    assert row["head"] == bad.payload[:256]
    assert ": " in row["reason"]
    assert row["first_at"].timestamp() * 1000 == NOW_MS
    assert ("12-17" in receipts.event_ids) == (bad is BAD["event"])


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e3, 1e3) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
SPICED = {
    "ts": st.integers(0, 10**14 - 1) | st.just(NOW_MS),
    **dict.fromkeys(("boot", "seq", "conn"), st.integers(0, 3) | st.integers(0, 2**32 - 1)),
    "up": st.integers(0, 10**14 - 1),
    **dict.fromkeys(("ivl", "wake"), st.floats(0, 2_678_400)),
    "lat": st.floats(-90, 90),
    "lon": st.floats(-180, 180),
    "odo": st.floats(0, 1e9),
    "batt": st.floats(0, 100) | st.integers(0, 100),
    **dict.fromkeys(("bid", "fw", "d", "id", "ev"), st.text(min_size=1, max_size=16)),
    "lock": st.sampled_from(["locked", "jammed"]),
    "s": st.sampled_from(["online", "sleeping", "offline", "lost"]),
    "request_id": st.just("1"),
    "status": st.just("success"),
}
MESSAGE = st.fixed_dictionaries(
    {}, optional={name: value | st.none() for name, value in SPICED.items()}
)
ANYTHING = (
    MESSAGE
    | st.fixed_dictionaries({name: SPICED[name] for name in ("id", "ev", "s", "lat", "lon")})
    | st.lists(MESSAGE | VALUE, max_size=3)
    | st.dictionaries(st.sampled_from([*FULL_REPORT]), VALUE, max_size=3)
)
PAYLOAD = st.binary(max_size=20) | ANYTHING.map(lambda value: json.dumps(value).encode())
TOPIC = st.builds(uplink, st.sampled_from(["F-1", "F-2"]), st.sampled_from(Uplink))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    deliveries=st.lists(
        st.builds(Delivery, TOPIC, PAYLOAD, retain=st.sampled_from([False, False, True])),
        max_size=12,
    )
)
def test_any_delivery_has_an_outcome_and_a_history_that_can_be_read(
    redis_url: str, deliveries: list[Delivery]
) -> None:
    with BlockingRedis.from_url(redis_url) as redis:
        redis.set(LOADED, 1)
        redis.delete("scooters:history", "scooter:F-1", "scooter:F-2")
        entries = [entry_of(each) for each in deliveries]
        batch = orjson.dumps({"at": NOW_MS, "entries": entries})

        outcomes, dropped = redis.register_script(script("advance"))(args=[batch, 1 << 30, 1])

        assert len(outcomes) == len(deliveries)
        assert {outcome.decode() for outcome in outcomes} <= OUTCOMES
        assert dropped == 0
        for _, fields in redis.xrange("scooters:history"):
            assert isinstance(json.loads(fields[b"b"]), dict)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    deliveries=st.lists(st.builds(Delivery, TOPIC, PAYLOAD), min_size=20, max_size=40),
)
async def test_any_history_and_state_can_be_stored_in_postgres(
    redis: Redis, postgres_url: str, deliveries: list[Delivery]
) -> None:
    fleet = Fleet(redis)
    await fleet.load()
    await fleet.take(*deliveries)
    before: int = await redis.xlen("scooters:history")
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=2) as pool:
        await pool.execute("TRUNCATE rejects, scooter_state")
        taken = await History(redis, pool, send_receipts=Receipts(), metrics=Metrics()).take()
        unreadable = await pool.fetchval(
            "SELECT count(*) FROM rejects WHERE reason LIKE ANY ('{history entry%,cannot be%}')"
        )
        dirty = DirtySet(redis)
        claimed = await dirty.claim(marked_before_ms=await dirty.now_ms() + 1000)
        await write_chunk(pool, claimed, period_s=60)
        await dirty.clear(claimed)

    assert (taken, unreadable) == (before, 0)
