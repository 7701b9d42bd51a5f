"""Provisioning killed at each step: nobody in who should be out, no bundle with a wrong secret."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from pathlib import Path

import pytest

from broker.accounts import write_private
from devices.bundle_places import FolderPlace
from devices.import_file import read_import
from devices.importing import Import
from devices.issuing import bundles_that_match
from devices.reconciling import reconcile
from devices.registry import NewScooter, Standing
from tests.desk import BY, Desk, document_of, gets_in

FLEET = [f"SC-{number:04}" for number in range(1, 701)]


@pytest.fixture
def place(tmp_path: Path) -> FolderPlace:
    return FolderPlace(tmp_path / "bundles")


async def started(desk: Desk, folder: Path, step: str, verb: str, subject: str) -> Process:
    """The verb in a process that is killed at this step."""
    address = folder / "address.json"
    write_private(address, json.dumps(asdict(desk.address)))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.desk_process", str(address), step, verb),
        *(str(folder / "bundles"), subject),
        stdout=PIPE,
        stderr=PIPE,
    )


async def killed(desk: Desk, folder: Path, step: str, verb: str, subject: str) -> None:
    process = await started(desk, folder, step, verb, subject)
    _, told = await process.communicate()
    assert process.returncode == -signal.SIGKILL, told.decode()


async def standing_of(desk: Desk, scooter_id: str) -> Standing | None:
    found = await desk.registry.get(scooter_id)
    return found.standing if found else None


async def wrong_bundles(desk: Desk, place: FolderPlace, ids: list[str]) -> set[str]:
    """Whose bundle has a secret that is not the registered one."""
    kept = place.secrets(ids)
    return kept.keys() - bundles_that_match(place, kept, await desk.registry.logins())


ADD = [
    "after:prepare",
    "after:add",
    "after:set_credentials",
    "after:keep",
    "after:admit",
    "before:activate",
    "after:activate",
]


@pytest.mark.parametrize("step", ADD)
async def test_an_add_that_was_killed_is_finished_by_reconcile_or_told(
    desk: Desk, place: FolderPlace, scooter_id: str, tmp_path: Path, step: str
) -> None:
    await killed(desk, tmp_path, step, "add", scooter_id)
    assert not await wrong_bundles(desk, place, [scooter_id])

    done = await reconcile(desk.provisioning, by=BY, places=[place])

    left = done.not_handed_over + done.without_credential
    if place.secrets([scooter_id]):
        assert await standing_of(desk, scooter_id) is Standing.ACTIVE
    elif await desk.registry.get(scooter_id):
        assert left == [scooter_id]
        await desk.provisioning.rotate(scooter_id, by=BY, place=place)
    else:
        await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    assert await gets_in(document_of(place.where(scooter_id)))
    assert await standing_of(desk, scooter_id) is Standing.ACTIVE
    assert (await reconcile(desk.provisioning, by=BY, places=[place])).sentences == []


@pytest.mark.parametrize(
    "step", ["after:prepare", "after:set_credentials", "after:keep", "after:admit"]
)
async def test_a_rotation_that_was_killed_is_found_again(
    desk: Desk, place: FolderPlace, scooter_id: str, tmp_path: Path, step: str
) -> None:
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    old = document_of(place.where(scooter_id))
    await killed(desk, tmp_path, step, "rotate", scooter_id)
    is_changed = step != "after:prepare"

    standing = Standing.REGISTERED if is_changed else Standing.ACTIVE
    assert await standing_of(desk, scooter_id) is standing
    done = await reconcile(desk.provisioning, by=BY, places=[place])
    assert done.named == ([scooter_id] if step == "after:set_credentials" else [])
    assert done.activated == ([scooter_id] if is_changed else [])

    assert not await wrong_bundles(desk, place, [scooter_id])
    bundle = document_of(place.where(scooter_id))
    assert await gets_in(bundle)
    assert (bundle == old) is not is_changed
    assert await gets_in(old) is not is_changed
    assert await standing_of(desk, scooter_id) is Standing.ACTIVE


@pytest.mark.parametrize(
    "killed_at",
    [
        ("suspend", "after:set_standing"),
        ("revoke", "after:set_standing"),
        ("revoke", "after:set_credentials"),
        ("revoke", "after:admit"),
        ("revoke", "after:end_session"),
        ("retire", "after:set_standing"),
        ("retire", "after:end_session"),
    ],
)
async def test_whoever_was_to_be_out_is_out_after_reconcile(
    desk: Desk, place: FolderPlace, scooter_id: str, tmp_path: Path, killed_at: tuple[str, str]
) -> None:
    verb, step = killed_at
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    bundle = document_of(place.where(scooter_id))
    await killed(desk, tmp_path, step, verb, scooter_id)

    done = await reconcile(desk.provisioning, by=BY, places=[place])

    found = await desk.registry.get(scooter_id)
    assert found is not None
    assert [each.client_id for each in done.put_out] == [scooter_id]
    assert found.has_credential is (verb == "suspend")
    assert not await gets_in(bundle)
    assert desk.forgotten == ([scooter_id] if verb == "retire" else [])
    assert (await reconcile(desk.provisioning, by=BY, places=[place])).sentences == []


async def test_a_revocation_of_a_suspended_scooter_is_finished_too(
    desk: Desk, place: FolderPlace, scooter_id: str, tmp_path: Path
) -> None:
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    await desk.provisioning.suspend(scooter_id, by=BY)
    assert (await reconcile(desk.provisioning, by=BY)).revoked == []
    await killed(desk, tmp_path, "after:set_standing", "revoke", scooter_id)

    assert (await reconcile(desk.provisioning, by=BY)).revoked == [scooter_id]
    resumed = await desk.provisioning.resume(scooter_id, by=BY)
    assert not resumed.scooter.has_credential


@pytest.mark.parametrize("step", [*ADD[:-2], "after:activate"])
async def test_an_import_that_was_killed_is_finished_by_the_next_run(
    desk: Desk, place: FolderPlace, tmp_path: Path, step: str
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text("\n".join(["scooter_id", *FLEET]))
    await killed(desk, tmp_path, step, "import", str(file))
    assert not await wrong_bundles(desk, place, FLEET)

    async for result in Import(desk.provisioning, read_import(file), place=place, by=BY):
        assert not result.failed

    assert bundles_that_match(place, FLEET, await desk.registry.logins()) == set(FLEET)
    active = [each.scooter_id async for each in desk.registry.find(standings=[Standing.ACTIVE])]
    assert active == FLEET
    assert await gets_in(document_of(place.where(FLEET[-1])))


async def test_an_import_that_was_interrupted_at_the_terminal_is_finished_by_the_next_run(
    desk: Desk, place: FolderPlace, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text("\n".join(["scooter_id", *FLEET]))
    process = await started(desk, tmp_path, "never", "import", str(file))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"added SC-0001\n"
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode != 0
    assert not await wrong_bundles(desk, place, FLEET)

    async for result in Import(desk.provisioning, read_import(file), place=place, by=BY):
        assert not result.failed
    assert bundles_that_match(place, FLEET, await desk.registry.logins()) == set(FLEET)
