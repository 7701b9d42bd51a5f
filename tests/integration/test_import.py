"""Importing a fleet: chunks, results by row, and runs that are ended, repeated or run at once."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from devices.bundle_lines import LinesPlace, place_for_many
from devices.bundle_places import FolderPlace, NotKept, Place
from devices.import_file import ImportRow, read_import
from devices.import_verdicts import RowResult, foretell
from devices.importing import Import
from devices.issuing import bundles_that_match
from devices.reconciling import reconcile
from devices.refusals import Unfinished
from devices.registry import NewScooter, RegistryBusy, Standing
from gateway.local.servers import Servers
from gateway.storage.postgres import AWAY, migrate
from tests.broker_place import BrokerPlace
from tests.desk import BY, Desk, address_of, document_of, gets_in, open_desk
from tests.full_disk import files_of_at_most

FLEET = [f"SC-{number:04}" for number in range(1, 1201)]


def rows(ids: Iterable[str]) -> list[ImportRow]:
    return [ImportRow(line, name, NewScooter(name)) for line, name in enumerate(ids, 2)]


async def run(desk: Desk, its_rows: list[ImportRow], place: Place) -> list[RowResult]:
    return [result async for result in Import(desk.provisioning, its_rows, place=place, by=BY)]


def outcomes(results: Iterable[RowResult]) -> Counter[str]:
    return Counter(str(each.outcome) for each in results)


async def in_order(desk: Desk, place: Place, ids: list[str]) -> bool:
    """Each is active, and the bundle in `place` is the one that gets in."""
    logins = await desk.registry.logins()
    active = {each.scooter_id async for each in desk.registry.find(standings=[Standing.ACTIVE])}
    return bundles_that_match(place, ids, logins) == active == logins.keys() == set(ids)


def written_in(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and each.read_bytes()]


async def test_a_fleet_is_imported_and_importing_it_again_changes_nothing(
    desk: Desk, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    first = await run(desk, rows(FLEET), place)
    before = document_of(place.where("SC-0001"))

    assert [each.scooter_id for each in first] == FLEET
    assert outcomes(first) == {"added": 1200}
    assert await in_order(desk, place, FLEET)
    assert await gets_in(before)

    again = Import(desk.provisioning, rows(FLEET), place=place, by=BY)
    assert outcomes([result async for result in again]) == {"unchanged": 1200}
    assert again.admitted is None
    assert document_of(place.where("SC-0001")) == before


async def test_json_lines_hold_a_whole_fleet(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "bundles.jsonl"
    with LinesPlace(file) as lines:
        assert outcomes(await run(desk, rows(FLEET), lines)) == {"added": 1200}
        assert await in_order(desk, lines, FLEET)

    bundles = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["scooter_id"] for each in bundles] == FLEET
    assert await gets_in(bundles[-1])


async def test_each_row_has_its_result_and_bad_ones_harm_nobody(desk: Desk, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "bundles")
    for name, printed in (("SC-0001", ""), ("SC-0002", "B-9"), ("SC-0003", "")):
        await desk.provisioning.add(NewScooter(name, printed), by=BY, place=place)
    await desk.provisioning.suspend("SC-0002", by=BY)
    await desk.provisioning.retire("SC-0003", by=BY)
    file = tmp_path / "fleet.csv"
    file.write_text(
        "scooter_id,vehicle_id\nSC-0001,\nSC-0002,\nSC-0003,\nSC-0004,B-9\nsc-0001,B\nx,\nSC-0005,\n"
    )

    expected = [
        (2, "unchanged", "active already"),
        (3, "refused", "resume"),
        (4, "refused", "take another id"),
        (5, "refused", "taken by SC-0002"),
        (6, "invalid", "on line 2 already"),
        (7, "invalid", "no scooter id"),
        (8, "added", ""),
    ]
    foretold = [each async for each in foretell(desk.registry, read_import(file))]
    for results in (foretold, await run(desk, read_import(file), place)):
        assert [(each.line, str(each.outcome)) for each in results] == [
            (line, outcome) for line, outcome, _ in expected
        ]
        for result, (_, _, told) in zip(results, expected, strict=True):
            assert told in result.detail
    assert not place.secrets(["SC-0004"])
    assert await gets_in(document_of(place.where("SC-0005")))


async def test_a_dry_run_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    foretold = foretell(desk.registry, rows(FLEET[:10]), place=FolderPlace(tmp_path))

    assert outcomes([each async for each in foretold]) == {"added": 10}
    assert [each async for each in desk.registry.find()] == []
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a test may block


async def test_of_two_imports_at_once_one_waits_and_finds_all_done(
    desk: Desk, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    async with open_desk(desk.address) as other:
        results = await asyncio.gather(
            run(desk, rows(FLEET[:400]), place),
            run(other, rows(FLEET[:400]), FolderPlace(tmp_path)),
        )

    assert sorted(map(str, map(outcomes, results))) == [
        str(Counter({"added": 400})),
        str(Counter({"unchanged": 400})),
    ]
    assert await in_order(desk, place, FLEET[:400])


async def test_an_import_that_takes_long_refuses_a_second_one(desk: Desk, tmp_path: Path) -> None:
    async with desk.registry.importing(), open_desk(desk.address) as other:
        with pytest.raises(RegistryBusy, match="imports scooters"):
            await run(other, rows(FLEET[:3]), FolderPlace(tmp_path))


async def test_an_import_that_was_interrupted_is_resumed(desk: Desk, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)

    async def half() -> None:
        async for result in Import(desk.provisioning, rows(FLEET), place=place, by=BY):
            if result.scooter_id == FLEET[700]:
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await half()
    kept = {name: document_of(place.where(name)) for name in (FLEET[0], FLEET[600])}

    results = await run(desk, rows(FLEET), place)

    assert outcomes(results) == {"mended": 1000, "added": 200}
    assert await in_order(desk, place, FLEET)
    assert {name: document_of(place.where(name)) for name in kept} == kept


async def test_what_an_interrupted_import_left_is_finished_by_reconcile(
    desk: Desk, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    task = aiter(Import(desk.provisioning, rows(FLEET[:20]), place=place, by=BY))
    await anext(task)
    await task.aclose()  # type: ignore[attr-defined]
    place.prepare([])
    lost = place.where("SC-0020") / "bundle.json"
    lost.unlink()

    done = await reconcile(desk.provisioning, by=BY, places=[place])

    assert done.activated == FLEET[:19]
    assert done.not_handed_over == ["SC-0020"]
    assert "rotate: SC-0020" in " ".join(done.sentences)
    await desk.provisioning.rotate("SC-0020", by=BY, place=place)
    assert await in_order(desk, place, FLEET[:20])
    assert (await reconcile(desk.provisioning, by=BY, places=[place])).sentences == []


async def test_a_registered_scooter_without_its_bundle_gets_a_new_secret(
    desk: Desk, tmp_path: Path
) -> None:
    printed = await desk.provisioning.add(NewScooter("SC-0001"), by=BY)
    place = FolderPlace(tmp_path)

    (result,) = await run(desk, rows(["SC-0001"]), place)

    assert (str(result.outcome), "new secret" in result.detail) == ("mended", True)
    assert not await gets_in(document_of(printed.bundle))
    assert await in_order(desk, place, ["SC-0001"])


async def test_what_cannot_be_written_commits_nothing(desk: Desk, unwritable: Path) -> None:
    with pytest.raises(NotKept, match="bundles cannot be kept"):
        await run(desk, rows(FLEET[:10]), FolderPlace(unwritable))
    assert [each async for each in desk.registry.find()] == []


@pytest.mark.parametrize("name", ["bundles", "bundles.jsonl"])
async def test_a_disk_that_is_full_leaves_nothing_behind(
    desk: Desk, tmp_path: Path, name: str
) -> None:
    with (
        pytest.raises(NotKept, match="large"),
        place_for_many(tmp_path / name) as place,
        files_of_at_most(900),
    ):
        await run(desk, rows(FLEET[:9]), place)

    assert written_in(tmp_path) == []
    assert [each async for each in desk.registry.find()] == []


class Filling(FolderPlace):
    """A disk that is full after the first chunk."""

    chunks = 0

    def prepare(self, bundles: object) -> None:
        self.chunks += 1
        if self.chunks > 1:
            raise NotKept(self.path, os.strerror(28))
        super().prepare(bundles)  # type: ignore[arg-type]


async def test_a_disk_that_fills_up_keeps_what_was_done(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(NotKept, match="No space left"):
        await run(desk, rows(FLEET), Filling(tmp_path))

    assert await in_order(desk, FolderPlace(tmp_path), FLEET[:500])
    results = await run(desk, rows(FLEET), FolderPlace(tmp_path))
    assert outcomes(results) == {"unchanged": 500, "added": 700}


async def test_with_the_broker_away_all_is_ready_and_the_same_command_finishes(
    desk: Desk, broker_place: BrokerPlace, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    broker_place.server.stop()
    try:
        with pytest.raises(Unfinished, match=r"20 scooters .*do not get in yet.*same command"):
            await run(desk, rows(FLEET[:20]), place)
    finally:
        broker_place.server.start()
    bundle = document_of(place.where("SC-0001"))

    assert outcomes(await run(desk, rows(FLEET[:20]), place)) == {"mended": 20}
    assert document_of(place.where("SC-0001")) == bundle
    assert await in_order(desk, place, FLEET[:20])


async def test_postgres_killed_in_the_middle_leaves_what_the_next_run_mends(
    own_postgres: Servers, broker_place: BrokerPlace, tmp_path: Path
) -> None:
    await migrate(own_postgres.postgres_url)
    address = address_of(broker_place, own_postgres.postgres_url)
    place = FolderPlace(tmp_path / "bundles")

    async def until_it_dies(desk: Desk) -> None:
        async for result in Import(desk.provisioning, rows(FLEET), place=place, by=BY):
            if result.scooter_id == FLEET[0]:
                own_postgres.postgres.kill()

    async with open_desk(address) as desk:
        with pytest.raises(AWAY):
            await until_it_dies(desk)
    own_postgres.postgres.start()
    async with open_desk(address) as desk:
        results = await run(desk, rows(FLEET), place)

        assert outcomes(results) == {"mended": 500, "added": 700}
        assert await in_order(desk, place, FLEET)


async def test_ten_thousand_are_imported_in_time(desk: Desk, tmp_path: Path) -> None:
    """20 s are promised; a machine that is busy with other tests gets three times that."""
    fleet = [f"SC-{number:05}" for number in range(10_000)]
    started = time.monotonic()
    results = await run(desk, rows(fleet), FolderPlace(tmp_path))

    assert time.monotonic() - started < 60
    assert outcomes(results) == {"added": 10_000}
