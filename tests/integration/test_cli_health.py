import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.health import Health, serve_health
from gateway.links.broker import BrokerAddress
from gateway.local.servers import Servers, free_port
from gateway.metrics import Metrics
from tests.command_line import environment, scooter, start
from tests.eventually import eventually


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def port(health: Health) -> Iterator[int]:
    with serve_health(health, Metrics(), host="127.0.0.1", port=0) as port:
        yield port


async def test_a_gateway_that_is_well_is_exit_code_0(port: int) -> None:
    ended = await scooter("health", "--json", metrics_port=port)

    assert ended.code == Exit.OK
    assert ended.json == {
        "healthz": {"ok": True, "problems": {}},
        "readyz": {"ok": True, "problems": {}},
    }


async def test_a_gateway_that_is_not_ready_says_why(health: Health, port: int) -> None:
    health.watch("redis", lambda: "is away")

    ended = await scooter("health", metrics_port=port, metrics_host="0.0.0.0")  # noqa: S104
    live = await scooter("health", "--live", metrics_port=port)

    assert ended.code == Exit.FAILED
    assert "redis: is away" in ended.out
    assert live.code == Exit.OK


async def test_no_gateway_is_a_sentence() -> None:
    ended = await scooter("health", metrics_port=free_port())

    assert ended.code == Exit.FAILED
    assert ended.err.startswith("Error: no gateway at 127.0.0.1:")
    assert len(ended.err.splitlines()) == 1


async def test_settings_are_read_from_the_environment_and_secrets_are_not_shown() -> None:
    ended = await scooter("settings", "--json", mqtt_port=1234, mqtt_password="s3cr3t")  # noqa: S106

    rows = {row["name"]: row for row in ended.json}
    assert rows["SCOOTER_MQTT_PORT"]["value"] == 1234
    assert rows["SCOOTER_MQTT_PORT"]["is_set"]
    assert rows["SCOOTER_MQTT_PORT"]["default"] == 8884
    assert rows["SCOOTER_MQTT_PASSWORD"]["value"] == "********"
    assert "s3cr3t" not in ended.out
    assert all(row["meaning"] for row in rows.values())


async def test_a_gateway_whose_metrics_port_is_taken_says_which_setting_to_change(
    port: int,
) -> None:
    ended = await scooter("gateway", metrics_port=port)

    assert ended.code == Exit.FAILED
    assert "SCOOTER_METRICS_PORT" in ended.err
    assert "Traceback" not in ended.err


async def test_a_gateway_refuses_a_redis_that_would_lose_states_with_exit_code_4(
    own_redis: Servers,
) -> None:
    async with Redis.from_url(own_redis.redis_admin_url) as admin:
        await admin.config_set("maxmemory-policy", "allkeys-lru")

    ended = await scooter("gateway", redis_url=own_redis.redis_url, metrics_port=0)

    assert ended.code == Exit.REFUSED
    assert "Error: Redis evicts states" in ended.err
    assert "Traceback" not in ended.err


async def test_a_gateway_with_addresses_that_are_none_names_each_and_does_not_wait() -> None:
    ended = await scooter("gateway", redis_url="http://x", postgres_url="http://y", metrics_port=0)

    assert ended.code == Exit.USAGE
    assert [line.split(":")[1].strip() for line in ended.err.splitlines()] == [
        "SCOOTER_REDIS_URL",
        "SCOOTER_POSTGRES_URL",
    ]


@pytest.mark.parametrize("command", ["gateway", "doctor"])
async def test_no_command_runs_with_a_fleet_secret_that_can_be_guessed(command: str) -> None:
    for secret in ("", "x" * 31):
        ended = await scooter(command, fleet_secret=secret, metrics_port=0)

        assert ended.code == Exit.USAGE
        assert "SCOOTER_FLEET_SECRET" in ended.err
        assert "Traceback" not in ended.err
        assert not secret or secret not in ended.err


async def test_a_gateway_ends_in_order_on_sigterm(redis_url: str, broker: BrokerAddress) -> None:
    port = free_port()
    process = await start(
        "gateway",
        redis_url=redis_url,
        mqtt_port=broker.port,
        mqtt_username=broker.username,
        mqtt_password=broker.password,
        metrics_port=port,
    )

    async def is_well() -> bool:
        return (await scooter("health", metrics_port=port)).code == Exit.OK

    try:
        await eventually(is_well, what="a gateway that is ready", within_s=30)
    finally:
        process.terminate()
        _, log = await process.communicate()
    assert process.returncode == Exit.OK
    assert b"Traceback" not in log


async def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word() -> None:
    read, written = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "settings"),
        env=environment({}),
        stdout=written,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(written)

    _, talk = await process.communicate()

    assert talk == b""
    assert process.returncode == 128 + signal.SIGPIPE
