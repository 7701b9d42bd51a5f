"""Who gets in at `scooter demo`: its fleet, its operator, newcomers; and who does not any more."""

import json
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

from devices.bundle import login_of
from tests.desk import client_of, ends, gets_in
from tests.e2e.demo_process import DemoProcess, demo, scooter
from tests.eventually import eventually

REPORT = '{"lat":52.52,"lon":13.405,"batt":80,"lock":"locked"}'


def bundle_of(folder: Path, name: str) -> dict[str, Any]:
    document = json.loads((folder / "demo" / "bundles" / name / "bundle.json").read_text())
    assert isinstance(document, dict)
    return document


async def test_a_scooter_added_while_it_rides_reports_over_tls_and_revoked_it_is_out(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "3") as running:
        await running.rides()
        added = await scooter(tmp_path, "devices", "add", "NEW-001", "--out", "demo/bundles")
        assert added.code == 0, added.err
        bundle = bundle_of(tmp_path, "NEW-001")

        async with client_of(bundle) as client:

            async def known() -> bool:
                # The gateway hears of a new scooter a moment later.
                await client.publish(bundle["topics"]["telemetry"], REPORT, qos=1)
                return (await scooter(tmp_path, "state", "NEW-001")).code == 0

            await eventually(known, within_s=30, what="the state of NEW-001")
            revoked = await scooter(tmp_path, "devices", "revoke", "NEW-001", "--yes", "--json")
            assert revoked.code == 0, revoked.err
            await ends(client, within_s=2.0)

        (told,) = revoked.json
        assert told["standing"] == "suspended"
        assert told["ended"]["returned"] is False
        assert not await gets_in(bundle)
        again = await scooter(tmp_path, "devices", "add", "NEW-001", "--out", "demo/bundles")
        assert again.code == 4, "a revoked login does not come back by being added"
        listed = await scooter(tmp_path, "devices", "list", "--standing", "suspended", "--json")
        assert [each["scooter_id"] for each in listed.json] == ["NEW-001"]
        await _end(running)


async def test_every_command_works_with_what_it_wrote_and_the_doctor_finds_nothing(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "3") as running:
        await running.rides()
        examined = await scooter(tmp_path, "doctor", "--json")
        findings = [each["findings"] for each in examined.json["servers"] if each["findings"]]
        assert (examined.code, findings) == (0, [])
        operators = await scooter(tmp_path, "operators", "list", "--json")
        assert [each["operator"] for each in operators.json] == ["demo"]
        assert await gets_in(bundle_of(tmp_path, "demo.laptop"))
        await _end(running)


async def test_its_secrets_are_readable_by_nobody_else_and_in_no_log_and_no_process_list(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "3") as running:
        await running.rides()
        await scooter(tmp_path, "devices", "add", "NEW-001", "--out", "demo/bundles")
        folder = tmp_path / "demo"
        bundles = sorted((folder / "bundles").glob("*/bundle.json"))
        assert len(bundles) == 3 + 2
        logins = [login_of(each.read_bytes()) for each in bundles]
        secrets = {
            *(login[1] for login in logins if login),
            *json.loads((folder / "secrets.json").read_text()).values(),
            (folder / "fleet.secret").read_text(),
        }
        names = ("gateway.env", "reader.env", "pgpass", "fleet.secret", "secrets.json")
        for file in (*bundles, *(folder / name for name in names)):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        for each in (folder, folder / "bundles", *(file.parent for file in bundles)):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700, each
        commands = running.command_lines()
        await _end(running)
    said = "\n".join([*commands, *running.said])
    logs = "".join(file.read_text() for file in sorted(folder.rglob("*.log")))
    assert "mosquitto" in said
    assert "gateway starts" in logs
    assert "New client connected" in logs
    for secret in secrets:
        assert secret not in said
        assert secret not in logs


async def test_started_again_whoever_got_in_keeps_the_secret_and_whoever_was_put_out_stays_out(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "4") as first:
        await first.rides()
        before = {name: bundle_of(tmp_path, name) for name in ("SC-0001", "demo.laptop")}
        lost = bundle_of(tmp_path, "SC-0004")
        assert (await scooter(tmp_path, "devices", "suspend", "SC-0002")).code == 0
        assert (await scooter(tmp_path, "devices", "revoke", "SC-0003", "--yes")).code == 0
        await _end(first)
    shutil.rmtree(tmp_path / "demo" / "bundles" / "SC-0004")

    async with demo(tmp_path, "--scooters", "5") as second:
        await second.rides()
        assert "Kept out, so these do not ride: SC-0002, SC-0003" in second.said
        for name, bundle in before.items():
            now = bundle_of(tmp_path, name)
            assert now["secret"] == bundle["secret"]
            assert await gets_in(now)
        assert bundle_of(tmp_path, "SC-0004")["secret"] != lost["secret"]
        for name in ("SC-0004", "SC-0005"):
            assert await gets_in(bundle_of(tmp_path, name))
        assert not await gets_in(bundle_of(tmp_path, "SC-0002"))
        await _end(second)

    async with demo(tmp_path, "--scooters", "2", "--fresh") as third:
        await third.rides()
        assert bundle_of(tmp_path, "SC-0001")["secret"] != before["SC-0001"]["secret"]
        assert not (tmp_path / "demo" / "bundles" / "SC-0004").exists()
        assert await gets_in(bundle_of(tmp_path, "SC-0002"))
        await _end(third)


async def _end(running: DemoProcess) -> None:
    running.signal(signal.SIGINT)
    assert (await running.ended()).code == 0
