"""`scooter devices` makes scooters known and looks into the registry, on real servers."""

import csv
import json
import signal
import stat
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.local.servers import Servers
from tests.command_line import (
    Run,
    access_settings,
    added,
    gets_in,
    receive,
    runner,
    start,
)
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other


@pytest.fixture
def settings(own_mosquitto: Servers, redis_url: str, postgres_url: str) -> dict[str, object]:
    servers = {"redis_url": redis_url, "postgres_url": postgres_url}
    return access_settings(own_mosquitto) | servers


@pytest.fixture
def run(settings: dict[str, object]) -> Run:
    return runner(settings)


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


async def test_of_several_the_good_ones_are_added_and_each_refusal_is_told(run: Run) -> None:
    await added(run, "SC-0001")

    ended = await run("devices", "add", "SC-0001", "GATEWAY", "SC-0002", "--json")

    assert ended.code == Exit.REFUSED
    assert [each["scooter_id"] for each in ended.json] == ["SC-0002"]
    assert "SC-0001 is active already" in ended.err
    assert "GATEWAY is reserved" in ended.err
    assert await gets_in(ended.json[0]["bundle"])


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
    assert [json.loads(line)["scooter_id"] for line in lines.lines] == ["SC-0001", "SC-0002"]
    assert again.out == lines.out


async def test_a_partly_failed_import_names_lines_and_fields_and_adds_the_rest(
    run: Run, tmp_path: Path
) -> None:
    file, out = tmp_path / "fleet.csv", tmp_path / "bundles"
    file.write_text(
        "scooter_id,vehicle_id,tags,metadata.owner\n"
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
    assert "invalid  scooter_id " in done.lines[1]
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
    file.write_text("\n".join(["scooter_id", *ids]) + "\n")
    arguments = ("devices", "import", str(file), "--out", str(out))
    process = await start(*arguments, **settings)

    async def has_begun() -> bool:
        is_over = process.returncode is not None
        return is_over or (out.exists() and out.stat().st_size > 0)

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
