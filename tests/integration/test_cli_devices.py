"""`scooter devices …` on real servers: who gets in afterwards is what counts."""

import asyncio
import csv
import json
import os
import pty
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.errors import ServerAway
from gateway.local.servers import Servers
from tests.command_line import (
    Ended,
    access_settings,
    environment,
    gets_in,
    logged_in,
    receive,
    scooter,
    start,
)
from tests.eventually import eventually

Run = Callable[..., Awaitable[Ended]]
Bundle = dict[str, Any]

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other


@pytest.fixture
def settings(own_mosquitto: Servers, redis_url: str, postgres_url: str) -> dict[str, object]:
    return {
        **access_settings(own_mosquitto),
        "redis_url": redis_url,
        "postgres_url": postgres_url,
    }


@pytest.fixture
def run(settings: dict[str, object]) -> Run:
    async def run_scooter(*arguments: str, **changed: object) -> Ended:
        given = {name: each for name, each in (settings | changed).items() if each is not None}
        return await scooter(*arguments, **given)

    return run_scooter


async def added(run: Run, *arguments: str) -> Bundle:
    """The bundle of a scooter that was added just now."""
    ended = await run("devices", "add", *arguments, "--json")
    assert ended.code == Exit.OK, ended.err
    bundle: Bundle = ended.json[0]["bundle"]
    return bundle


async def everything_in(postgres_url: str) -> str:
    """Every row of the tables about access, as text."""
    connection = await asyncpg.connect(postgres_url)
    tables = ("scooters", "operators", "operator_rights", "operator_keys", "access_audit")
    rows = [await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables]  # noqa: S608 - ours
    await connection.close()
    return "\n".join(row[0] for found in rows for row in found)


async def test_an_added_scooter_gets_in_and_its_secret_is_shown_once(
    run: Run, postgres_url: str
) -> None:
    ended = await run("devices", "add", "SC-0001", "--tag", "munich", "--by", "erika")
    header, row = ended.lines
    secret = row.split()[header.split().index("secret")]

    listed = await run("devices", "list", "--json")
    shown = await run("devices", "show", "SC-0001", "--json")
    again = await run("devices", "add", "SC-0001")
    exported = await run("devices", "export", "--json")

    assert ended.code == Exit.OK
    assert secret not in ended.err
    assert len(secret) == 43
    for told in (listed, shown, again, exported):
        assert secret not in told.out + told.err
    assert secret not in await everything_in(postgres_url)
    assert (again.code, "rotate" in again.err) == (Exit.REFUSED, True)
    assert shown.json["standing"] == "active"
    assert {each["by"] for each in shown.json["audits"]} == {"erika"}


async def test_with_out_bundles_are_readable_by_us_alone_and_no_secret_is_printed(
    run: Run, tmp_path: Path
) -> None:
    ended = await run("devices", "add", "SC-0001", "SC-0002", "--out", str(tmp_path / "bundles"))
    alone = await run("devices", "add", "SC-0003", "--out", str(tmp_path / "SC-0003.json"))

    files = [tmp_path / "bundles" / each / "bundle.json" for each in ("SC-0001", "SC-0002")]
    files.append(tmp_path / "SC-0003.json")
    bundles = [json.loads(file.read_text()) for file in files]
    assert (ended.code, alone.code) == (Exit.OK, Exit.OK)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    assert [await gets_in(bundle) for bundle in bundles] == [True] * 3
    for bundle in bundles:
        assert bundle["secret"] not in ended.out + ended.err + alone.out + alone.err


async def test_bundles_that_cannot_be_written_leave_nothing_registered(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    ended = await run("devices", "add", "SC-0001", "--out", str(tmp_path / "file" / "bundles"))
    listed = await run("devices", "list", "--json")

    assert ended.code == Exit.FAILED
    assert "Not a directory" in ended.err
    assert listed.json == []


async def test_of_several_the_good_ones_are_added_and_each_refusal_is_told(run: Run) -> None:
    await added(run, "SC-0001")

    ended = await run("devices", "add", "SC-0001", "GATEWAY", "SC-0002", "--json")

    assert ended.code == Exit.REFUSED
    assert [each["scooter_id"] for each in ended.json] == ["SC-0002"]
    assert "SC-0001 is active already" in ended.err
    assert "GATEWAY is reserved" in ended.err
    assert await gets_in(ended.json[0]["bundle"])


async def test_a_partly_failed_import_names_lines_and_fields_and_adds_the_rest(
    run: Run, tmp_path: Path
) -> None:
    file, out = tmp_path / "fleet.csv", tmp_path / "bundles"
    file.write_text(
        "id,vehicle_id,tags,metadata.owner\n"
        "SC-0001,A1,munich depot,ACME\n"
        "SC 0002,A2,,\n"
        "SC-0003,A1,,\n"
        "SC-0004,,,\n"
    )

    dry = await run("devices", "import", str(file), "--dry-run", "--json")
    untouched = await run("devices", "list", "--json")
    done = await run("devices", "import", str(file), "--out", str(out))
    again = await run("devices", "import", str(file), "--out", str(out), "--json")
    listed = await run("devices", "list", "--tag", "munich", "--json")

    assert (dry.code, untouched.json) == (Exit.FAILED, [])
    assert (dry.json["counts"]["added"], dry.json["dry_run"]) == (2, True)
    assert done.code == Exit.FAILED
    assert [line.split()[0] for line in done.lines] == ["line", "3", "4"]
    assert "invalid  id " in done.lines[1]
    assert "invalid  vehicle_id " in done.lines[2]
    assert "2 of 4 rows were not imported" in done.err
    assert again.json["counts"]["unchanged"] == 2
    assert [each["metadata"] for each in listed.json] == [{"owner": "ACME"}]
    for scooter_id in ("SC-0001", "SC-0004"):
        assert await gets_in(json.loads((out / scooter_id / "bundle.json").read_text()))


async def test_an_import_that_is_interrupted_goes_on_where_it_stopped(
    run: Run, settings: dict[str, object], tmp_path: Path
) -> None:
    file, out = tmp_path / "fleet.csv", tmp_path / "bundles.jsonl"
    ids = [f"SC-{number:05d}" for number in range(8000)]
    file.write_text("\n".join(["id", *ids]) + "\n")
    arguments = ("devices", "import", str(file), "--out", str(out))
    process = await start(*arguments, **settings)

    async def has_begun() -> bool:
        return out.exists() and out.stat().st_size > 0

    await eventually(has_begun, what="the first bundles", within_s=60)
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    resumed = await run(*arguments)

    bundles = {
        bundle["username"]: bundle for bundle in map(json.loads, out.read_text().splitlines())
    }
    listed = await run("devices", "list", "--standing", "active", "--csv")
    assert process.returncode == Exit.INTERRUPTED
    assert b"run the same command again" in said
    assert b"Traceback" not in said
    assert resumed.code == Exit.OK, resumed.err
    assert sorted(bundles) == ids
    assert [row["scooter_id"] for row in csv.DictReader(listed.lines)] == ids
    for scooter_id in (ids[0], ids[3999], ids[-1]):
        assert await gets_in(bundles[scooter_id])


async def test_list_filters_and_keeps_one_order(run: Run, redis: Redis) -> None:
    for scooter_id, *tags in (("SC-0003", "a", "b"), ("SC-0001", "a"), ("SC-0002", "b")):
        await added(run, scooter_id, *(each for tag in tags for each in ("--tag", tag)))
    await receive(redis, "SC-0003", "telemetry", {"boot": 1, "seq": 1, "fw": "2.4.1"})
    await run("devices", "suspend", "SC-0002")

    async def ids(*arguments: str) -> list[str]:
        ended = await run("devices", "list", *arguments, "--json")
        return [each["scooter_id"] for each in ended.json]

    seen = await run("devices", "list", "--presence", "online", "--json")
    without_redis = await run("devices", "list", "--csv", redis_url="redis://127.0.0.1:1/0")
    assert await ids() == ["SC-0001", "SC-0002", "SC-0003"]
    assert await ids("--tag", "a") == ["SC-0001", "SC-0003"]
    assert await ids("--tag", "a", "--tag", "b") == ["SC-0003"]
    assert await ids("--standing", "suspended", "--standing", "retired") == ["SC-0002"]
    assert await ids("--presence", "unknown") == ["SC-0001", "SC-0002"]
    assert [(each["scooter_id"], each["firmware"]) for each in seen.json] == [("SC-0003", "2.4.1")]
    assert len(without_redis.lines) == 4
    assert "redis is away" in without_redis.err


async def test_show_tells_registry_sighting_and_who_changed_what(run: Run, redis: Redis) -> None:
    await added(run, "SC-0001", "--metadata", '{"colour": "red"}', "--vehicle-id", "M 12")
    await receive(redis, "SC-0001", "telemetry", {"boot": 1, "seq": 1, "fw": "2.4.1"})
    await run("devices", "tag", "SC-0001", "--add", "munich", "--by", "erika")

    shown = (await run("devices", "show", "SC-0001", "--json")).json
    unknown = await run("devices", "show", "SC-0009")

    assert (shown["vehicle_id"], shown["metadata"]) == ("M 12", {"colour": "red"})
    assert (shown["presence"], shown["firmware"]) == ("online", "2.4.1")
    assert shown["last_seen_at"] is not None
    assert (shown["audits"][0]["action"], shown["audits"][0]["by"]) == ("tag", "erika")
    assert [each["action"] for each in shown["audits"]][::-1][:2] == ["add", "credential"]
    assert unknown.code == Exit.NOT_FOUND


async def test_tags_are_changed_for_all_or_none(run: Run) -> None:
    await added(run, "SC-0001", "--tag", "depot")

    ended = await run("devices", "tag", "SC-0001", "--add", "munich", "--remove", "depot", "--json")
    refused = await run("devices", "tag", "SC-0001", "SC-0009", "--add", "x")
    wrong = await run("devices", "tag", "SC-0001", "--add", "two words")
    listed = await run("devices", "list", "--json")

    assert ended.json == [{"scooter_id": "SC-0001", "tags": ["munich"]}]
    assert refused.code == Exit.NOT_FOUND
    assert (wrong.code, "is no tag" in wrong.err) == (Exit.USAGE, True)
    assert listed.json[0]["tags"] == ["munich"]


async def test_suspending_ends_the_live_session_and_resuming_takes_the_same_secret(
    run: Run,
) -> None:
    bundle = await added(run, "SC-0001")

    async with logged_in(bundle) as live:
        ended = await run("devices", "suspend", "SC-0001", "--reason", "stolen?", "--json")
        with pytest.raises(ServerAway, match=r"ended|closed"):
            await live.receive(1, within_s=10)
    is_in_while_suspended = await gets_in(bundle)
    resumed = await run("devices", "resume", "SC-0001", "--json")

    assert ended.code == Exit.OK
    assert ended.json[0]["standing"] == "suspended"
    assert not ended.json[0]["ended"]["returned"]
    assert not is_in_while_suspended
    assert resumed.json[0]["standing"] == "active"
    assert await gets_in(bundle)


async def test_revoking_asks_first_then_prints_the_evidence_and_rotating_begins_anew(
    run: Run,
) -> None:
    bundle = await added(run, "SC-0001")

    unasked = await run("devices", "revoke", "SC-0001")
    is_in_unasked = await gets_in(bundle)
    ended = await run("devices", "revoke", "SC-0001", "--yes", "--reason", "leaked", "--json")
    is_in_revoked = await gets_in(bundle)
    resumed = await run("devices", "resume", "SC-0001")
    rotated = await run("devices", "rotate", "SC-0001", "--yes", "--json")
    shown = await run("devices", "show", "SC-0001", "--json")

    assert (unasked.code, "--yes" in unasked.err, is_in_unasked) == (Exit.REFUSED, True, True)
    evidence = ended.json[0]
    assert (evidence["standing"], evidence["has_credential"]) == ("suspended", False)
    assert evidence["admitted"]["logins"] == 0
    assert len(evidence["admitted"]["sha256"]) == 64
    assert evidence["ended"]["client_id"] == "SC-0001"
    assert not evidence["ended"]["returned"]
    assert not is_in_revoked
    assert "scooter devices rotate SC-0001" in resumed.err
    assert rotated.json[0]["generation"] == 2
    assert await gets_in(rotated.json[0]["bundle"])
    assert not await gets_in(bundle)
    kept_out = [each for each in shown.json["audits"] if each["action"] == "kept out"]
    assert kept_out[0]["detail"]["sha256"] == evidence["admitted"]["sha256"]
    assert bundle["secret"] not in shown.out


async def test_a_retired_scooter_leaves_no_state_and_no_status_and_never_comes_back(
    run: Run, redis: Redis
) -> None:
    bundle = await added(run, "SC-0001")
    await receive(redis, "SC-0001", "telemetry", {"boot": 1, "seq": 1, "batt": 80})
    async with logged_in(bundle) as live:
        assert await live.publish("scooters/SC-0001/status", b'{"s":"online"}', retain=True)
        live.leave()

    unasked = await run("devices", "retire", "SC-0001")
    ended = await run("devices", "retire", "SC-0001", "--yes", "--json")
    again = await run("devices", "retire", "SC-0001", "--yes")
    added_again = await run("devices", "add", "SC-0001")
    state = await run("state", "SC-0001")

    assert unasked.code == Exit.REFUSED
    assert ended.json[0]["standing"] == "retired"
    assert ended.json[0]["forgotten"] == {"redis": 4, "postgres": 0, "status_cleared": True}
    assert again.code == Exit.OK, again.err
    assert (added_again.code, "for ever" in added_again.err) == (Exit.REFUSED, True)
    assert state.code == Exit.NOT_FOUND
    assert [key async for key in redis.scan_iter("scooter:*")] == []
    assert not await gets_in(bundle)


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


@pytest.mark.parametrize(("typed", "code"), [(b"n\n", Exit.REFUSED), (b"y\n", Exit.OK)])
async def test_on_a_terminal_it_asks_and_does_what_is_answered(
    run: Run, settings: dict[str, object], typed: bytes, code: Exit
) -> None:
    bundle = await added(run, "SC-0001")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "devices", "revoke", "SC-0001"),
        env=environment(settings),
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.write(ours, typed)
    _, asked = await process.communicate()
    os.close(ours)
    os.close(theirs)

    assert b"End the access of SC-0001?" in asked
    assert process.returncode == code
    assert await gets_in(bundle) is (code is Exit.REFUSED)


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


async def test_what_is_exported_can_be_imported(
    run: Run, tmp_path: Path, empty_postgres_url: str
) -> None:
    await added(run, "SC-0001", "--tag", "a", "--tag", "b", "--metadata", '{"owner": "A, \\"B\\""}')
    await added(run, "SC-0002", "--vehicle-type", "scooter_seated")
    other = {"postgres_url": empty_postgres_url}
    await run("migrate", **other)

    exported = await run("devices", "export")
    lines = await run("devices", "export", "--json")
    file = tmp_path / "fleet.csv"
    file.write_text(exported.out)
    done = await run("devices", "import", str(file), "--out", str(tmp_path / "bundles"), **other)
    again = await run("devices", "export", "--json", **other)

    assert done.code == Exit.OK, done.err
    assert [json.loads(line)["id"] for line in lines.lines] == ["SC-0001", "SC-0002"]
    assert again.out == lines.out


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
