from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.links.broker import BrokerAddress
from gateway.links.lease import instance_key
from tests.command_line import Ended, receive, scooter

Run = Callable[..., Awaitable[Ended]]

DAY = timedelta(days=1)


@pytest.fixture
def run(redis_url: str, postgres_url: str) -> Run:
    async def run_scooter(*arguments: str, **settings: object) -> Ended:
        given: dict[str, object] = {"redis_url": redis_url, "postgres_url": postgres_url}
        return await scooter(*arguments, **(given | settings))

    return run_scooter


async def test_after_a_reset_of_the_order_an_older_report_counts_as_newer(
    run: Run, redis: Redis
) -> None:
    await receive(redis, "SC-0001", "telemetry", {"boot": 9, "seq": 9, "batt": 80})
    older = {"boot": 2, "seq": 1, "batt": 40}
    assert await receive(redis, "SC-0001", "telemetry", older) == ["late"]

    ended = await run("reset-order", "SC-0001", "--json")

    assert ended.json == {"scooter_id": "SC-0001", "reset": True}
    assert await receive(redis, "SC-0001", "telemetry", older) == ["applied"]
    assert await redis.hget("scooter:SC-0001", "battery_percent") == b"40"


async def test_erasing_takes_the_first_moment_and_leaves_the_last(
    run: Run, postgres_url: str
) -> None:
    first, last = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
    connection = await asyncpg.connect(postgres_url)
    await connection.executemany(
        "INSERT INTO scooter_snapshots (scooter_id, period_start, version, position_at, lat, lon)"
        " VALUES ('SC-0001', $1, 1, $1, 48.1, 11.5)",
        [(first,), (last,)],
    )

    span = ("--from", "2026-11-01", "--to", "2026-11-02")
    refused = await run("erase", "SC-0001", *span)
    erased = await run("erase", "SC-0001", *span, "--yes", "--json")
    again = await run("erase", "SC-0001", *span, "--yes")

    rows = await connection.fetch("SELECT lat FROM scooter_snapshots ORDER BY period_start")
    await connection.close()
    assert refused.code == Exit.REFUSED
    assert erased.code == Exit.OK
    assert erased.json["erased"]["scooter_snapshots"] == 1
    assert [row["lat"] for row in rows] == [None, 48.1]
    assert (again.code, "nothing was there" in again.err) == (Exit.OK, True)


async def test_a_position_is_gone_from_redis_after_erasing(run: Run, redis: Redis) -> None:
    await receive(redis, "SC-0001", "telemetry", {"lat": 48.1, "lon": 11.5, "batt": 80})

    ended = await run("erase", "SC-0001", "--from", "1h", "--to", "2099-01-01", "--yes", "--json")

    assert ended.json["erased"]["scooter:state"] == 1
    assert await redis.hget("scooter:SC-0001", "lat") is None
    assert await redis.hget("scooter:SC-0001", "battery_percent") == b"80"


async def test_migrating_lists_first_then_applies_then_finds_nothing(
    run: Run, empty_postgres_url: str
) -> None:
    dry = await run("migrate", "--dry-run", "--json", postgres_url=empty_postgres_url)
    done = await run("migrate", "--json", postgres_url=empty_postgres_url)
    again = await run("migrate", "--json", postgres_url=empty_postgres_url)

    assert dry.json["pending"]
    assert done.json["applied"] == dry.json["pending"]
    assert again.json == {"pending": [], "applied": []}
    assert "up to date" in again.err


async def test_a_wrong_password_is_told_with_the_setting_to_check(
    run: Run, postgres_url: str, redis_url: str
) -> None:
    wrong = postgres_url.replace("scooter:", "scooter:x")
    if wrong != postgres_url:
        ended = await run("migrate", postgres_url=wrong)
        assert ended.code == Exit.FAILED
        assert "SCOOTER_POSTGRES_URL" in ended.err
        assert "refuses the login" in ended.err

    ended = await run("reset-order", "SC-0001", redis_url=redis_url.replace("@", "x@"))
    assert ended.code == Exit.FAILED
    assert "SCOOTER_REDIS_URL" in ended.err


async def test_retiring_asks_first_and_is_refused_while_the_instance_runs(
    redis: Redis, redis_url: str, broker: BrokerAddress, fresh_id: str
) -> None:
    settings: dict[str, object] = {
        "redis_url": redis_url,
        "mqtt_host": broker.host,
        "mqtt_port": broker.port,
        "mqtt_username": broker.username,
        "mqtt_password": broker.password,
        "lease_s": 1.0,
    }
    retire = ("gateway", "retire", fresh_id)

    unasked = await scooter(*retire, **settings)
    done = await scooter(*retire, "--yes", "--json", **settings)
    await redis.set(instance_key(fresh_id), "another process", px=60_000)
    alive = await scooter(*retire, "--yes", **settings)
    nowhere = await scooter(*retire, "--yes", redis_url="redis://127.0.0.1:1/0")

    assert (unasked.code, "--yes" in unasked.err) == (Exit.REFUSED, True)
    assert (done.code, done.json) == (Exit.OK, {"instance": fresh_id, "received": 0})
    assert (alive.code, "still runs" in alive.err) == (Exit.REFUSED, True)
    assert (nowhere.code, "redis is away" in nowhere.err) == (Exit.FAILED, True)
