import csv
import io
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.snapshots import DirtySet, write_round
from tests.command_line import Ended, receive, scooter
from tests.history import history
from tests.registration import register

Run = Callable[..., Awaitable[Ended]]

REPORT = {
    "boot": 1,
    "seq": 7,
    "lat": 48.1371,
    "lon": 11.5754,
    "spd": 12.5,
    "batt": 82,
    "chg": False,
}


@pytest.fixture
def run(redis_url: str, postgres_url: str) -> Run:
    async def run_scooter(*arguments: str, **settings: object) -> Ended:
        given: dict[str, object] = {"redis_url": redis_url, "postgres_url": postgres_url}
        return await scooter(*arguments, **(given | settings))

    return run_scooter


async def store(redis_url: str, postgres_url: str) -> None:
    """Do what the gateway does once a period, and what it does with the history."""
    async with open_redis(redis_url) as redis, open_postgres(postgres_url) as pool:
        await write_round(DirtySet(redis), pool, period_s=30, metrics=Metrics())
        await history(redis, pool).take()


async def test_state_is_live_from_redis_with_typed_values_and_ages(run: Run, redis: Redis) -> None:
    now_ms = int(time.time() * 1000)
    await receive(redis, "SC-0001", "telemetry", REPORT | {"ts": now_ms - 20_000})

    ended = await run("state", "SC-0001", "--json")

    assert ended.code == Exit.OK
    found = ended.json
    assert (found["scooter_id"], found["source"]) == ("SC-0001", "redis")
    state = found["state"]
    assert (state["lat"], state["battery_percent"], state["charging"]) == (48.1371, 82, False)
    assert state["presence"] == "online"
    assert state["position_at_ms"] == now_ms - 20_000
    assert state["position_at"].endswith("Z")
    assert 20 <= found["ages_s"]["position"] < 60
    assert not any(name.endswith("_order") for name in state)


async def test_state_comes_from_postgres_when_redis_was_emptied(
    run: Run, redis: Redis, redis_admin: Redis, redis_url: str, postgres_url: str
) -> None:
    await receive(redis, "SC-0001", "telemetry", REPORT)
    await store(redis_url, postgres_url)
    await redis_admin.flushall()

    first, second = await run("state", "SC-0001", "--json"), await run("state", "SC-0001")

    assert first.json["source"] == "postgres"
    assert first.json["state"]["lat"] == 48.1371
    assert "from Redis" in second.err
    assert "lat 48.1371" in second.out


async def test_a_scooter_that_is_registered_and_was_never_heard_is_said_to_be_so(
    run: Run, postgres_url: str, scooter_id: str
) -> None:
    await register(postgres_url, [scooter_id])

    ended = await run("state", scooter_id)

    assert ended.code == Exit.NOT_FOUND
    assert f"{scooter_id} is registered (active), but was never heard" in ended.err


async def test_an_unknown_scooter_is_not_found(run: Run) -> None:
    for arguments in (["state", "SC-9999"], ["snapshots", "SC-9999"], ["reset-order", "SC-9999"]):
        ended = await run(*arguments)

        assert ended.code == Exit.NOT_FOUND
        assert "SC-9999" in ended.err
        assert ended.out == ""


async def test_a_server_that_is_away_is_one_sentence(run: Run) -> None:
    for settings in (
        {"redis_url": "redis://127.0.0.1:1/0"},
        {"postgres_url": "postgresql://127.0.0.1:1/x"},
    ):
        ended = await run("state", "SC-9999", **settings)

        assert ended.code == Exit.FAILED
        assert len(ended.err.splitlines()) == 1
        assert "is away" in ended.err


async def test_of_two_servers_that_are_away_the_one_asked_last_is_told_with_what_to_do(
    run: Run,
) -> None:
    ended = await run(
        *("state", "SC-9999"),
        redis_url="redis://127.0.0.1:1/0",
        postgres_url="postgresql://127.0.0.1:1/x",
    )

    assert ended.code == Exit.FAILED
    assert ended.err.count("start it, or check SCOOTER_POSTGRES_URL") == 1


async def test_an_address_that_is_none_is_a_wrong_setting(run: Run) -> None:
    for settings in (
        {"redis_url": "http://x"},
        {"postgres_url": "http://x"},
        {"postgres_url": "postgresql://h:port/x"},
    ):
        ended = await run("state", "SC-9999", **settings)

        assert ended.code == Exit.USAGE
        assert "_URL: " in ended.err


async def test_near_lists_nearest_first_and_only_what_is_within(run: Run, redis: Redis) -> None:
    for name, lat in (("SC-0001", 48.1400), ("SC-0002", 48.1372), ("SC-0003", 48.2)):
        await receive(redis, name, "telemetry", {"lat": lat, "lon": 11.5754})

    ended = await run("near", "48.1371", "11.5754", "--within", "500m", "--json")
    table = await run("near", "48.1371", "11.5754", "--within", "0.5km")

    assert [each["scooter_id"] for each in ended.json] == ["SC-0002", "SC-0001"]
    assert ended.json[0]["distance_m"] == pytest.approx(11, abs=2)
    assert [line.split()[0] for line in table.lines] == ["scooter_id", "SC-0002", "SC-0001"]


async def test_near_takes_southern_latitudes(run: Run, redis: Redis) -> None:
    await receive(redis, "SC-0001", "telemetry", {"lat": -33.92, "lon": -18.42})

    ended = await run("near", "-33.92", "-18.42", "--json")

    assert [each["scooter_id"] for each in ended.json] == ["SC-0001"]


async def test_snapshots_are_listed_as_json_csv_and_table(
    run: Run, redis: Redis, redis_url: str, postgres_url: str
) -> None:
    await receive(redis, "SC-0001", "telemetry", REPORT)
    await store(redis_url, postgres_url)

    as_json = await run("snapshots", "SC-0001", "--since", "1h", "--json")
    as_csv = await run("snapshots", "SC-0001", "--since", "1h", "--csv")
    as_table = await run("snapshots", "SC-0001")
    before = await run("snapshots", "SC-0001", "--since", "2h", "--until", "1h", "--json")

    (row,) = as_json.json
    assert (row["lat"], row["battery_percent"], row["charging"]) == (48.1371, 82.0, False)
    assert row["period_start"].endswith("Z")
    (line,) = csv.DictReader(io.StringIO(as_csv.out))
    assert (line["lat"], line["charging"], line["lock"]) == ("48.1371", "false", "")
    assert list(line) == list(row)
    assert len(as_table.lines) == 2
    assert before.json == []
    assert before.code == Exit.OK


async def test_events_are_listed_once_each(
    run: Run, redis: Redis, redis_url: str, postgres_url: str
) -> None:
    event = {"id": "1-7", "ev": "fall", "boot": 1, "seq": 7, "d": "\u001b[2Jleft"}
    for _ in range(2):
        await receive(redis, "SC-0001", "events", event)
    await store(redis_url, postgres_url)

    ended, table = await run("events", "SC-0001", "--json"), await run("events", "SC-0001")

    (row,) = ended.json
    assert (row["event_id"], row["event_type"], row["seq"]) == ("1-7", "fall", 7)
    assert row["detail"] == "\x1b[2Jleft"
    assert "\x1b" not in table.out
    assert len(table.lines) == 2


async def test_rejects_are_listed_with_their_reason_and_first_bytes(
    run: Run, redis: Redis, redis_url: str, postgres_url: str
) -> None:
    for _ in range(3):
        await receive(redis, "SC-0001", "telemetry", b'{"batt": 300, \x1b\xff')
    await receive(redis, "SC-0002", "telemetry", b"[]")
    await store(redis_url, postgres_url)

    ended = await run("rejects", "--since", "1h", "--id", "SC-0001", "--json")
    table = await run("rejects")

    (row,) = ended.json
    assert (row["scooter_id"], row["count"]) == ("SC-0001", 3)
    assert row["topic"] == "scooters/SC-0001/telemetry"
    assert row["reason"]
    assert len(table.lines) == 3
    assert "\x1b" not in table.out


async def test_tables_that_are_missing_are_told_with_how_to_mend_it(
    run: Run, empty_postgres_url: str
) -> None:
    ended = await run("events", "SC-0001", postgres_url=empty_postgres_url)

    assert ended.code == Exit.FAILED
    assert "scooter migrate" in ended.err


async def test_redis_alone_is_enough_for_states(redis: Redis, redis_url: str) -> None:
    await receive(redis, "SC-0001", "telemetry", REPORT)

    found = await scooter("state", "SC-0001", "--json", redis_url=redis_url)
    unknown = await scooter("state", "SC-9999", redis_url=redis_url)
    events = await scooter("events", "SC-0001", redis_url=redis_url)

    assert found.json["source"] == "redis"
    assert unknown.code == Exit.NOT_FOUND
    assert (events.code, "SCOOTER_POSTGRES_URL" in events.err) == (Exit.USAGE, True)
