"""`scooter demo` on this machine: unattended, looked into, interrupted, killed, started again."""

import asyncio
import os
import re
import signal
from pathlib import Path

import orjson
import pytest

from gateway.local.demo_look import NEWCOMER
from tests.e2e.demo_process import demo, gone, paste, scooter
from tests.eventually import eventually

_SILENT = ("scooter near", "(umask", "XDG_CONFIG_HOME")
"""Lines that may print nothing."""

NAMES = {"scooters", "received", "applied", "rejected", "snapshot_rows", "balance_ok"}


async def test_unattended_it_ends_with_a_summary_and_its_data_is_used_again(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--for", "8s", "--scooters", "20") as first:
        await first.rides()
        family = first.family()
        ended = await first.ended()
    assert ended.code == 0, ended.err
    await gone(family)
    summary = orjson.loads(ended.lines[-1])
    assert summary.keys() >= NAMES
    assert summary["scooters"] == 20
    assert summary["balance_ok"] is True
    assert summary["rejected"] == 0
    assert summary["received"] >= summary["applied"] > 0
    assert summary["snapshot_rows"] > 0
    assert len(ended.lines) == 1, "nothing but the summary on standard output"

    async with demo(tmp_path, "--scooters", "1") as second:
        await second.rides()
        known = await scooter(tmp_path, "state", "SC-0015", "--json")
        assert known.code == 0, known.err
        kept = await scooter(tmp_path, "snapshots", "SC-0015", "--since", "1h", "--json")
        assert kept.code == 0
        assert kept.json
        second.signal(signal.SIGTERM)
        assert (await second.ended()).code == 0

    async with demo(tmp_path, "--scooters", "1", "--fresh") as third:
        await third.rides()
        assert (await scooter(tmp_path, "state", "SC-0015")).code == 3
        third.signal(signal.SIGINT)
        assert (await third.ended()).code == 0


async def test_each_line_to_look_inside_works_when_pasted_and_ctrl_c_leaves_no_process(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "5") as running:
        environment, *lines = await running.rides()
        await _is_known(tmp_path, "SC-0001")
        (publish,) = (line for line in lines if line.startswith("XDG_CONFIG_HOME"))
        for line in lines:
            # What shows news goes on for ever: `timeout` is the person who presses Ctrl-C.
            shown = f"timeout -s INT 5 {line}" if line == "scooter watch" else line
            if line == f"scooter state {NEWCOMER}":
                await _reports(tmp_path, f"{environment}; {publish}")
            ended = await paste(f"{environment}; {shown}", tmp_path)
            assert ended.code in ((0, 124, 130) if line == "scooter watch" else (0,)), (line, ended)
            assert ended.out or line.startswith(_SILENT), line
        said = " ".join(lines)
        for program in ("state", "near", "snapshots", "watch", "mosquitto_pub", "psql", "revoke"):
            assert re.search(rf"\b{program}\b", said), program
        family = running.family()
        running.signal(signal.SIGINT)
        ended = await running.ended()
    assert ended.code == 0, ended.err
    assert orjson.loads(ended.lines[-1])["balance_ok"] is True
    await gone(family)
    assert "Traceback" not in (tmp_path / "demo" / "gateway.log").read_text()


async def test_a_demo_that_is_killed_leaves_no_server_behind_and_starts_again(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path, "--scooters", "5") as running:
        await running.rides()
        await _is_known(tmp_path, "SC-0001")
        family = running.family()
        assert len(family) > 3
        running.signal(signal.SIGKILL)
        await gone(family)
    async with demo(tmp_path, "--scooters", "5", "--for", "5s") as again:
        ended = await again.ended()
    assert ended.code == 0, ended.err
    assert orjson.loads(ended.lines[-1])["balance_ok"] is True


async def test_a_demo_whose_broker_dies_ends_and_says_so(tmp_path: Path) -> None:
    async with demo(tmp_path, "--scooters", "2") as running:
        await running.rides()
        family = running.family()
        pid_file = tmp_path / "demo" / "mosquitto" / "mosquitto.pid"
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        ended = await running.ended()
    assert ended.code == 1
    assert "Mosquitto ended on its own" in ended.err
    assert str(Path("demo") / "mosquitto" / "mosquitto.log") in ended.err
    assert "Traceback" not in ended.err
    await gone(family)


async def test_a_second_demo_in_the_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with demo(tmp_path, "--scooters", "2") as first:
        await first.rides()
        await _is_known(tmp_path, "SC-0001")
        for options in ((), ("--fresh",)):
            async with demo(tmp_path, "--for", "1s", *options) as second:
                ended = await second.ended()
            assert ended.code == 1
            assert "in use" in ended.err
            assert "Traceback" not in ended.err
        assert (await scooter(tmp_path, "state", "SC-0001")).code == 0
        first.signal(signal.SIGINT)
        assert (await first.ended()).code == 0


async def test_fresh_deletes_nothing_that_a_demo_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    mine = tmp_path / "demo" / "letters.txt"
    mine.write_text("dear")
    async with demo(tmp_path, "--scooters", "2", "--for", "2s", "--fresh") as running:
        await running.ended()
    assert mine.read_text() == "dear"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_the_servers_start_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with demo(tmp_path, "--scooters", "2") as running:

        async def starts() -> bool:
            return len(running.family()) > 1

        await eventually(starts, within_s=30, what="the first server")
        family = running.family()
        running.signal(number)
        ended = await running.ended()
        await gone(family)
    assert ended.code != 0
    assert "Traceback" not in ended.err


async def _reports(folder: Path, publish: str) -> None:
    """Until the gateway, which hears of a new scooter a moment later, has kept a report."""

    async def probe() -> bool:
        await paste(publish, folder)
        return (await scooter(folder, "state", NEWCOMER)).code == 0

    await eventually(probe, within_s=30, what=f"the state of {NEWCOMER}")


async def _is_known(folder: Path, scooter_id: str) -> None:
    async def probe() -> bool:
        await asyncio.sleep(0)
        return (await scooter(folder, "state", scooter_id)).code == 0

    await eventually(probe, within_s=30, what=f"the state of {scooter_id}")
