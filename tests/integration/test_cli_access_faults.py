"""`scooter devices` while a server is away, a setting is missing, or nobody reads."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.local.servers import Servers
from tests.command_line import (
    Run,
    access_settings,
    added,
    environment,
    gets_in,
    receive,
    runner,
)

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other


@pytest.fixture
def settings(own_mosquitto: Servers, redis_url: str, postgres_url: str) -> dict[str, object]:
    servers = {"redis_url": redis_url, "postgres_url": postgres_url}
    return access_settings(own_mosquitto) | servers


@pytest.fixture
def run(settings: dict[str, object]) -> Run:
    return runner(settings)


async def test_bundles_that_cannot_be_written_leave_nothing_registered(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    ended = await run("devices", "add", "SC-0001", "--out", str(tmp_path / "file" / "bundles"))
    listed = await run("devices", "list", "--json")

    assert ended.code == Exit.FAILED
    assert "Not a directory" in ended.err
    assert listed.json == []


async def test_what_redis_could_not_forget_is_forgotten_by_reconcile(
    run: Run, redis: Redis
) -> None:
    await added(run, "SC-0001")
    await receive(redis, "SC-0001", "telemetry", {"boot": 1, "seq": 1, "batt": 80})

    ended = await run("devices", "retire", "SC-0001", "--yes", redis_url="redis://127.0.0.1:1/0")
    was_there = await redis.exists("scooter:SC-0001")
    finished = await run("devices", "reconcile", "--json")

    assert (ended.code, "redis is away" in ended.err) == (Exit.FAILED, True)
    assert "scooter devices reconcile" in ended.err
    assert (was_there, await redis.exists("scooter:SC-0001")) == (1, 0)
    assert [each["client_id"] for each in finished.json["put_out"]] == ["SC-0001"]


async def test_a_secret_that_nobody_read_is_told_by_reconcile(
    run: Run, settings: dict[str, object]
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "devices", "add", "SC-0001"),
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    await process.communicate()
    found = await run("devices", "reconcile", "--json")
    added_again = await run("devices", "add", "SC-0001")

    assert process.returncode == 128 + signal.SIGPIPE
    assert found.json["not_handed_over"] == ["SC-0001"]
    assert (added_again.code, "never handed over" in added_again.err) == (Exit.REFUSED, True)


@pytest.mark.parametrize(("out", "left"), [("b", "b/.SC-0001.new"), ("b.json", ".b.json.new")])
async def test_a_bundle_that_was_left_without_its_name_is_found_by_reconcile(
    run: Run, tmp_path: Path, out: str, left: str
) -> None:
    bundles = tmp_path / out
    await run("devices", "add", "SC-0001", "--out", str(bundles))
    bundle = bundles / "SC-0001" if bundles.is_dir() else bundles
    bundle.rename(tmp_path / left)

    found = await run("devices", "reconcile", "--bundles", str(bundles), "--json")

    assert found.json["named"] == ["SC-0001"]
    assert bundle.exists()


async def test_a_secret_that_a_full_disk_swallowed_is_told_and_never_handed_over(
    run: Run, settings: dict[str, object]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "devices", "add", "SC-0001"),
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=full,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(full)
    _, told = await process.communicate()
    found = await run("devices", "reconcile", "--json")

    assert process.returncode == Exit.FAILED
    assert told.decode().splitlines()[-1] == (
        "Error: standard output cannot be written (No space left on device): what was to be shown "
        "is lost"
    )
    assert found.json["not_handed_over"] == ["SC-0001"]


async def test_an_authority_file_with_its_private_key_is_never_handed_out(
    run: Run, own_mosquitto: Servers, tmp_path: Path
) -> None:
    authority = own_mosquitto.authority_file
    both = tmp_path / "ca.pem"
    both.write_text(authority.read_text() + authority.with_name("ca.key").read_text())

    ended = await run("devices", "add", "SC-0001", mqtt_authority_file=both)

    assert (ended.code, ended.out) == (Exit.USAGE, "")
    assert "holds a private key" in ended.err


async def test_a_reason_that_nobody_could_read_is_refused_before_anything_is_changed(
    run: Run,
) -> None:
    ended = await run("devices", "suspend", "SC-0001", "--reason", "caf\udce9")

    assert ended.code == Exit.USAGE
    assert "--reason" in ended.err


async def test_while_the_broker_is_away_the_registry_holds_and_reconcile_finishes(
    run: Run, own_mosquitto: Servers
) -> None:
    bundle = await added(run, "SC-0001")
    await asyncio.to_thread(own_mosquitto.mosquitto.kill)

    ended = await run("devices", "revoke", "SC-0001", "--yes")
    shown = await run("devices", "show", "SC-0001", "--json")
    still = await run("devices", "reconcile")
    await asyncio.to_thread(own_mosquitto.mosquitto.start)
    finished = await run("devices", "reconcile", "--json")
    quiet = await run("devices", "reconcile", "--json")

    assert (ended.code, "scooter devices reconcile" in ended.err) == (Exit.FAILED, True)
    assert "Traceback" not in ended.err + still.err
    assert shown.json["standing"] == "suspended"
    assert still.code == Exit.FAILED
    assert [each["client_id"] for each in finished.json["put_out"]] == ["SC-0001"]
    assert (quiet.code, quiet.json["put_out"]) == (Exit.OK, [])
    assert not await gets_in(bundle)


async def test_without_postgres_nothing_changes_and_one_sentence_says_why(run: Run) -> None:
    bundle = await added(run, "SC-0001")

    away = await run(
        "devices", "revoke", "SC-0001", "--yes", postgres_url="postgresql://127.0.0.1:1/x"
    )
    redis_alone = await run("devices", "list", postgres_url=None)

    assert (away.code, away.out) == (Exit.FAILED, "")
    assert away.err.startswith("Error: postgres is away")
    assert len(away.err.splitlines()) == 1
    assert (redis_alone.code, redis_alone.out) == (Exit.USAGE, "")
    assert "SCOOTER_POSTGRES_URL: is not set" in redis_alone.err
    assert await gets_in(bundle)


async def test_each_setting_that_is_missing_is_named(run: Run) -> None:
    missing = ("mqtt_admin_password", "broker_password_file", "broker_reload")
    without_broker = await run("devices", "add", "SC-0001", **dict.fromkeys(missing))
    facts = ("mqtt_public_host", "mqtt_authority_file")
    without_facts = await run("devices", "add", "SC-0001", **dict.fromkeys(facts))
    no_file = await run("devices", "add", "SC-0001", mqtt_authority_file="/nowhere/ca.crt")

    for ended, names in ((without_broker, missing), (without_facts, facts)):
        assert ended.code == Exit.USAGE
        told = [line.split(":")[1].strip() for line in ended.err.splitlines()]
        assert told == [f"SCOOTER_{name.upper()}" for name in names]
    assert (no_file.code, "SCOOTER_MQTT_AUTHORITY_FILE" in no_file.err) == (Exit.USAGE, True)
