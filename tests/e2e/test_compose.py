"""`docker compose up`: from nothing to a scooter that obeys, and every service killed once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import command_line
from tests.e2e.compose import SERVERS, Compose, NoEngine, Rider, docker, running
from tests.e2e.scooter import in_background
from tests.eventually import eventually

pytestmark = [
    pytest.mark.timeout(600),  # the first test waits for the image to be built
    # paho leaves the socket of a TLS handshake that failed to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    try:
        with running() as compose:
            yield compose
    except NoEngine as error:
        pytest.skip(f"no Docker Engine with these images: {error}")


@pytest.fixture(scope="module")
def operator(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a key that may lock and unlock everything."""
    folder = tmp_path_factory.mktemp("operator")
    compose.ask("operators", "add", "alice")
    compose.ask(
        *("operators", "grant", "alice", "--command", "lock", "--command", "unlock"),
        "--any-scooter",
    )
    compose.ask("operators", "key", "add", "alice.laptop", "--out", ".")
    compose.hand_out("alice.laptop", folder)
    return folder / "alice.laptop" / "bundle.json"


@asynccontextmanager
async def rider(compose: Compose, scooter_id: str, folder: Path) -> AsyncIterator[Rider]:
    """A scooter that was provisioned in the container and is connected from outside."""
    compose.ask("devices", "add", scooter_id, "--out", ".")
    bundle = compose.hand_out(scooter_id, folder)
    found = Rider.of(bundle)
    async with found.online(bundle["port"]):
        yield found


async def order(operator: Path, command: str, scooter_id: str) -> list[dict[str, Any]]:
    """The moves of a command that is typed outside, to its end."""
    ended = await command_line.scooter(command, scooter_id, "--key", str(operator), "--json")
    assert ended.code == 0, ended.err + ended.out
    return [json.loads(line) for line in ended.lines]


async def ordered(operator: Path, command: str, scooter_id: str) -> None:
    """Until it obeys: who was just let in, or connects again, may not be there at once."""

    async def probe() -> bool:
        ended = await command_line.scooter(command, scooter_id, "--key", str(operator), "--json")
        return ended.code == 0

    await eventually(probe, within_s=90, what=f"{command} of {scooter_id}")


async def state_of(compose: Compose, scooter_id: str, odometer_m: int) -> dict[str, Any]:
    """The state, once its last report is in it."""

    async def probe() -> dict[str, Any] | None:
        ended = await asyncio.to_thread(compose.scooter, "state", scooter_id, "--json")
        found: dict[str, Any] = ended.json["state"] if ended.code == 0 else {}
        return found if float(found.get("odometer_m") or 0) == odometer_m else None

    return await eventually(probe, within_s=90, what=f"{scooter_id} at {odometer_m} m")


async def receipted(rider: Rider) -> None:
    async def probe() -> bool:
        return not rider.unreceipted

    await eventually(probe, within_s=120, what=f"receipts of {sorted(rider.unreceipted)}")


async def goes_on(rider: Rider) -> None:
    """Until the scooter has a receipt for what happens from now on."""
    next_event = rider.events + 1

    async def probe() -> bool:
        return rider.events >= next_event and f"e-{next_event}" not in rider.unreceipted

    await eventually(probe, within_s=180, what=f"the receipt of e-{next_event}")


async def restarted(compose: Compose, service: str, before: int) -> None:
    async def probe() -> bool:
        return await asyncio.to_thread(compose.pid, service) not in {0, before}

    await eventually(probe, within_s=120, what=f"{service} to start again")


async def healthy(compose: Compose) -> None:
    async def probe() -> bool:
        statuses = await asyncio.to_thread(compose.statuses)
        return all("(healthy)" in statuses.get(each, "") for each in SERVERS)

    await eventually(probe, within_s=180, what="every service to be healthy")


async def stored(compose: Compose, scooter_id: str) -> list[dict[str, Any]]:
    """Snapshots in Postgres, once there is one."""

    async def probe() -> list[dict[str, Any]]:
        ended = await asyncio.to_thread(
            compose.scooter, "snapshots", scooter_id, "--since", "1d", "--json"
        )
        return ended.json if ended.code == 0 else []

    return await eventually(probe, within_s=60, what=f"a snapshot of {scooter_id}")


def event_ids(compose: Compose, scooter_id: str) -> list[str]:
    return [each["event_id"] for each in compose.ask("events", scooter_id)]


def ledger(compose: Compose, scooter_id: str) -> list[tuple[str, str]]:
    found = compose.ask("commands", "list", "--scooter", scooter_id)
    return [(each["command"], each["status"]) for each in found]


async def test_a_scooter_outside_reports_over_tls_obeys_and_is_seen(
    compose: Compose, operator: Path, tmp_path: Path
) -> None:
    async with rider(compose, "RIDER-1", tmp_path) as scooter:
        scooter.ride()
        scooter.fall()
        await state_of(compose, "RIDER-1", 1)
        await receipted(scooter)
        assert (await order(operator, "unlock", "RIDER-1"))[-1]["status"] == "succeeded"
        assert scooter.lock == "unlocked"
        assert (await order(operator, "lock", "RIDER-1"))[-1]["status"] == "succeeded"

    assert scooter.lock == "locked"
    found = await state_of(compose, "RIDER-1", 1)
    assert found["lock"] == "locked"
    assert (await stored(compose, "RIDER-1"))[-1]["odometer_m"] == 1
    assert event_ids(compose, "RIDER-1") == ["e-1"]
    assert ledger(compose, "RIDER-1") == [("unlock", "succeeded"), ("lock", "succeeded")]


def test_only_two_ports_are_published_and_nothing_is_root_or_writes_where_it_need_not(
    compose: Compose,
) -> None:
    published: set[str] = set()
    for service in SERVERS:
        found = compose.inspected(service)
        published |= (found["HostConfig"]["PortBindings"] or {}).keys()
        assert found["HostConfig"]["ReadonlyRootfs"], service
        assert found["HostConfig"]["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"], service
        assert docker("exec", compose.container(service), "id", "-u").strip() != "0", service

    assert published == {"8885/tcp", "8886/tcp"}


def test_no_secret_is_in_an_environment_a_command_line_or_a_log(compose: Compose) -> None:
    kept = compose.run(*("run", "--rm", "--no-deps", "-T", "setup", "cat", "/srv/own/secrets.json"))
    known = json.loads(kept).values()
    seen = compose.run("logs", "--no-color")
    for service in ("setup", "migrate", *SERVERS):
        seen += json.dumps(compose.inspected(service))

    assert known
    assert not [secret for secret in known if secret in seen]


def test_the_doctor_finds_nothing(compose: Compose) -> None:
    ended = compose.scooter("doctor")

    assert ended.code == 0, ended.out + ended.err
    assert "all is well" in ended.out + ended.err


@pytest.mark.parametrize("service", SERVERS)
async def test_a_service_that_is_killed_comes_back_and_nothing_is_lost(
    compose: Compose, operator: Path, tmp_path: Path, service: str
) -> None:
    scooter_id = f"RIDER-{service}"
    async with rider(compose, scooter_id, tmp_path) as scooter:
        await ordered(operator, "unlock", scooter_id)
        async with in_background(scooter.rides()):
            await goes_on(scooter)
            pid = compose.pid(service)
            await asyncio.to_thread(compose.kill, service)
            await restarted(compose, service, pid)
            await goes_on(scooter)
        scooter.ride()
        await receipted(scooter)
        await state_of(compose, scooter_id, scooter.odometer_m)
        await ordered(operator, "lock", scooter_id)

    assert sorted(event_ids(compose, scooter_id)) == sorted(
        f"e-{number}" for number in range(1, scooter.events + 1)
    )
    done = [entry for entry in ledger(compose, scooter_id) if entry[1] == "succeeded"]
    assert done == [("unlock", "succeeded"), ("lock", "succeeded")]


async def test_what_was_killed_is_healthy_again(compose: Compose) -> None:
    await healthy(compose)


def test_sigterm_ends_the_gateway_in_order_within_ten_seconds(compose: Compose) -> None:
    began = time.monotonic()
    compose.run("stop", "gateway")
    took_s = time.monotonic() - began
    ended = compose.inspected("gateway")["State"]
    compose.up()

    assert ended["ExitCode"] == 0
    assert took_s < 10


async def test_down_and_up_again_keeps_everything(
    compose: Compose, operator: Path, tmp_path: Path
) -> None:
    async with rider(compose, "RIDER-2", tmp_path) as scooter:
        scooter.ride()
        scooter.fall()
        await state_of(compose, "RIDER-2", 1)
        await receipted(scooter)
        await ordered(operator, "unlock", "RIDER-2")
        snapshots = await stored(compose, "RIDER-2")
        entries = ledger(compose, "RIDER-2")

        await asyncio.to_thread(compose.down)
        await asyncio.to_thread(compose.up)

        assert "nothing to do" in compose.run("logs", "setup")
        assert (await state_of(compose, "RIDER-2", 1))["lock"] == "unlocked"
        assert (await stored(compose, "RIDER-2"))[: len(snapshots)] == snapshots
        assert ledger(compose, "RIDER-2") == entries
        assert event_ids(compose, "RIDER-2") == ["e-1"]
        scooter.ride()
        await state_of(compose, "RIDER-2", 2)
        await ordered(operator, "lock", "RIDER-2")


async def test_the_fleet_of_the_profile_demo_rides(compose: Compose) -> None:
    compose.up("demo")

    async def probe() -> bool:
        ended = await asyncio.to_thread(
            compose.scooter, "devices", "list", "--tag", "demo", "--json"
        )
        online = [each["scooter_id"] for each in ended.json if each["presence"] == "online"]
        return online == ["SC-0001", "SC-0002", "SC-0003"]

    await eventually(probe, within_s=60, what="three scooters online")
