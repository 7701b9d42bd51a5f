"""`scooter devices` takes access and gives it back: who gets in afterwards is what counts."""

import asyncio
import os
import pty
import sys

import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from gateway.errors import ServerAway
from gateway.local.servers import Servers
from tests.command_line import (
    Run,
    access_settings,
    added,
    environment,
    gets_in,
    logged_in,
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


@pytest.mark.parametrize(
    ("typed", "code"), [(b"n\n", Exit.REFUSED), (b"y\n", Exit.OK)], ids=["no", "yes"]
)
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
