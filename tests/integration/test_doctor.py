import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.links.broker import BrokerAddress
from gateway.links.lease import instance_key
from gateway.links.probe import open_probe
from gateway.local.mosquitto_package import find_mosquitto
from gateway.local.mosquitto_server import mosquitto_serves
from gateway.local.server_kinds import REDIS_USER
from gateway.local.servers import Servers, free_port
from gateway.storage.migrate import migrate
from gateway.storage.readers import POSTGRES_READER
from tests.command_line import Ended, scooter
from tests.eventually import eventually

Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
def run(broker: BrokerAddress, redis_url: str, postgres_url: str) -> Run:
    async def run_scooter(*arguments: str, **settings: object) -> Ended:
        given: dict[str, object] = {
            "mqtt_host": broker.host,
            "mqtt_port": broker.port,
            "mqtt_username": broker.username,
            "mqtt_password": broker.password,
            "redis_url": redis_url,
            "postgres_url": postgres_url,
        }
        return await scooter(*arguments, **(given | settings))

    return run_scooter


def reports(ended: Ended) -> dict[str, dict[str, object]]:
    return {each["server"]: each for each in ended.json["servers"]}


def findings(ended: Ended, server: str) -> str:
    return "\n".join(str(each) for each in reports(ended)[server]["findings"])  # type: ignore[attr-defined]


async def test_shipped_servers_are_well(tmp_path: Path) -> None:
    async with Servers(tmp_path / "servers") as servers:
        await migrate(servers.postgres_url)
        settings: dict[str, object] = {
            "mqtt_port": servers.mqtt_port,
            "mqtt_username": servers.mqtt_username,
            "mqtt_password": servers.mqtt_password,
            "redis_url": servers.redis_url,
            "postgres_url": servers.postgres_url,
            "mqtt_admin_password": servers.mqtt_admin_password,
            "mqtt_public_host": servers.mqtt_host,
            "mqtt_scooters_port": servers.mqtt_scooters_port,
            "mqtt_operators_port": servers.mqtt_operators_port,
            "mqtt_authority_file": servers.authority_file,
            "broker_password_file": servers.password_file,
        }

        ended = await scooter("doctor", "--json", **settings)
        text = await scooter("doctor", **settings)

    assert {name: report["findings"] for name, report in reports(ended).items()} == {
        "broker": [],
        "access": [],
        "listeners": [],
        "files": [],
        "redis": [],
        "postgres": [],
    }
    assert (ended.code, ended.json["ok"]) == (Exit.OK, True)
    facts = reports(ended)["broker"]["facts"]
    assert facts["version"].startswith("mosquitto version 2.")  # type: ignore[index]
    assert facts["kept_while_away"] == "at least 1200"  # type: ignore[index]
    assert reports(ended)["postgres"]["facts"]["reader"] == POSTGRES_READER  # type: ignore[index]
    for secret in (servers.mqtt_password, servers.mqtt_admin_password):
        assert secret not in ended.out + text.out
    assert ":********@" in text.out
    assert "FINDING" not in text.out
    assert "all is well" in text.err


async def test_servers_that_are_away_are_findings_with_exit_code_1(run: Run) -> None:
    ended = await run(
        "doctor",
        "--json",
        mqtt_port=free_port(),
        redis_url="redis://127.0.0.1:1/0",
        postgres_url="postgresql://127.0.0.1:1/x",
    )

    assert ended.code == Exit.FAILED
    named = {"broker": "MQTT", "redis": "REDIS_URL", "postgres": "POSTGRES_URL"}
    for server, setting in named.items():
        assert findings(ended, server).count(f"SCOOTER_{setting}") == 1
    assert "certificate ends" in str(reports(ended)["listeners"]["not_examined"])


async def test_what_was_not_examined_is_never_called_well(own_servers: Servers) -> None:
    await migrate(own_servers.postgres_url)
    settings: dict[str, object] = {
        "mqtt_port": own_servers.mqtt_port,
        "mqtt_username": own_servers.mqtt_username,
        "mqtt_password": own_servers.mqtt_password,
        "redis_url": own_servers.redis_url,
        "postgres_url": own_servers.postgres_url,
    }

    unnamed = await scooter("doctor", **settings)
    stopped = await scooter("doctor", **settings | {"mqtt_port": free_port()})

    assert "listeners at 127.0.0.1: ok as far as examined" in unnamed.out
    assert "all is well" not in unnamed.err
    assert "not, or not fully, examined: listeners" in unnamed.err
    assert "listeners at 127.0.0.1: not examined" in stopped.out


async def test_wrong_logins_are_findings(run: Run, redis_url: str) -> None:
    wrong = redis_url.replace("@", "x@")
    ended = await run("doctor", "--json", mqtt_password="wrong", redis_url=wrong)  # noqa: S106

    assert "it refuses the login" in findings(ended, "broker")
    assert "it refuses the login" in findings(ended, "redis")


async def test_what_is_missing_in_postgres_is_found(
    run: Run, empty_postgres_url: str, postgres_url: str
) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "INSERT INTO scooter_snapshots (scooter_id, period_start, version)"
        " VALUES ('SC-0001', '1999-01-01', 1)"
    )
    await connection.close()

    strays = await run("doctor", "--json")
    empty = await run("doctor", "--json", postgres_url=empty_postgres_url)

    assert "1 rows of scooter_snapshots are outside the daily partitions" in findings(
        strays, "postgres"
    )
    assert "fsync is off" in findings(strays, "postgres")  # the test's servers are quick ones
    assert "scooter migrate" in findings(empty, "postgres")


async def test_a_reader_of_postgres_that_may_more_or_less_than_it_should_is_found(
    run: Run, postgres_url: str
) -> None:
    connection = await asyncpg.connect(postgres_url)
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", POSTGRES_READER):
        await connection.execute(f"CREATE ROLE {POSTGRES_READER}")
    await migrate(postgres_url)
    await connection.execute(f"REVOKE ALL ON scooter_state FROM {POSTGRES_READER}")
    less = await run("doctor", "--json")
    await migrate(postgres_url)
    await connection.execute("GRANT INSERT ON scooter_events TO PUBLIC")
    await connection.execute("GRANT SELECT ON operator_keys TO PUBLIC")
    await connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    await connection.close()
    more = await run("doctor", "--json")

    assert "not the rights that it should have on scooter_state" in findings(less, "postgres")
    assert "what is not for it (operator_keys, scooter_events)" in findings(more, "postgres")
    assert "REVOKE CREATE ON SCHEMA public" in findings(more, "postgres")


async def test_a_redis_that_would_lose_states_is_found(own_redis: Servers, run: Run) -> None:
    async with Redis.from_url(own_redis.redis_admin_url) as admin:
        await admin.config_set("maxmemory", "100mb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        await admin.config_set("appendonly", "no")
        await admin.execute_command("ACL", "SETUSER", REDIS_USER, "-xadd")  # type: ignore[no-untyped-call]

    ended = await run("doctor", "--json", redis_url=own_redis.redis_url)
    as_admin = await run("doctor", "--json", redis_url=own_redis.redis_admin_url)

    found = findings(ended, "redis")
    assert "noeviction" in found
    assert "appendonly" in found
    assert "XADD" in found
    assert "may do more than the gateway needs" in str(reports(as_admin)["redis"]["notes"])


async def test_the_doctor_leaves_nothing_in_redis(run: Run, redis: Redis) -> None:
    await run("doctor")

    assert await redis.dbsize() == 0


@asynccontextmanager
async def mosquitto(*lines: str, folder: Path) -> AsyncIterator[dict[str, object]]:
    """A broker with only these lines, which lets everybody do everything."""
    port = free_port()
    config = folder / "own.conf"
    # As root Mosquitto would become a user who may not read the test's folder.
    base = (f"listener {port} 127.0.0.1", "allow_anonymous true", "user root")
    config.write_text("\n".join((*base, *lines)))
    process = await asyncio.create_subprocess_exec(
        *(*find_mosquitto().command(), "-c", str(config)), stderr=asyncio.subprocess.DEVNULL
    )

    async def is_there() -> bool:
        return mosquitto_serves("127.0.0.1", port, "any")

    try:
        await eventually(is_there, what="Mosquitto")
        yield {"mqtt_port": port, "mqtt_username": "gateway", "mqtt_password": "any"}
    finally:
        process.terminate()
        await process.wait()


async def test_a_broker_with_its_defaults_would_lose_messages_and_that_is_found(
    run: Run, tmp_path: Path
) -> None:
    async with mosquitto(folder=tmp_path) as settings:
        ended = await run("doctor", "--json", **settings)

    found = findings(ended, "broker")
    assert "max_queued_messages 2000000" in found
    assert "max_inflight_messages is 20" in found


async def test_a_broker_that_forbids_the_gateway_what_it_needs_is_found(
    run: Run, tmp_path: Path
) -> None:
    access = tmp_path / "acl"
    access.write_text("user somebody\ntopic read #\n")
    access.chmod(0o644)

    async with mosquitto(
        f"acl_file {access}", "max_packet_size 1000", "retain_available false", folder=tmp_path
    ) as settings:
        ended = await run("doctor", "--json", **settings)

    found = findings(ended, "broker")
    assert "topic readwrite gateway/#" in found
    assert "topic read $SYS/#" in found
    assert "max_packet_size is 1000" in found
    assert "retain_available true" in found
    assert "max_queued_messages" not in found


async def test_the_doctor_leaves_no_session_at_the_broker(run: Run, tmp_path: Path) -> None:
    async with mosquitto("sys_interval 1", folder=tmp_path) as settings:
        await run("doctor", **settings)
        port = int(str(settings["mqtt_port"]))
        async with open_probe(BrokerAddress(host="127.0.0.1", port=port)) as probe:
            broker = BrokerAddress(host="127.0.0.1", port=port)
            await probe.connect(broker, "looking", clean_start=True, session_expiry_s=0)
            await probe.subscribe("$SYS/broker/clients/total")

            async def is_alone() -> bool:
                await probe.receive(len(probe.deliveries) + 1, within_s=2)
                return probe.deliveries[-1].payload == b"1"

            await eventually(is_alone, what="only our own session")


async def test_redis_alone_is_a_mode_and_no_finding() -> None:
    ended = await scooter(
        "doctor", "--json", redis_url="redis://127.0.0.1:1", mqtt_port=free_port()
    )

    assert reports(ended)["postgres"]["findings"] == []
    assert "Redis alone" in str(reports(ended)["postgres"]["notes"])


async def test_several_gateways_that_do_not_share_are_a_finding(run: Run, redis: Redis) -> None:
    for each in ("gateway-1", "gateway-2"):
        await redis.set(instance_key(each), "token", px=120_000)

    alone = await run("doctor", "--json")
    shared = await run("doctor", "--json", mqtt_shared="true")

    assert "SCOOTER_MQTT_SHARED is not set" in findings(alone, "redis")
    assert "SCOOTER_MQTT_SHARED" not in findings(shared, "redis")
