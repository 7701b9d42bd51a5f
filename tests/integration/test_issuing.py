"""Issuing that fails half-way: no secret is lost without a word, and what stands is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from devices.bundle_places import FilePlace, FolderPlace, NotKept, NotNamed, Place
from devices.import_file import ImportRow
from devices.importing import Import
from devices.reconciling import reconcile
from devices.refusals import Unfinished
from devices.registry import NewScooter, Registry, Standing
from gateway.local.servers import Servers
from gateway.storage.postgres import migrate
from tests.broker_place import BrokerPlace
from tests.desk import BY, Desk, address_of, document_of, gets_in, open_desk

KEY = "alice.laptop"


class Obstructed(FolderPlace):
    """Something takes the name of each bundle just after it was prepared."""

    def prepare(self, bundles: Any) -> None:  # noqa: ANN401 - whatever the place takes
        super().prepare(bundles)
        for bundle in bundles:
            self.where(bundle.username).write_text("in the way")


class ObstructedFile(FilePlace):
    """The same for one file."""

    def prepare(self, bundles: Any) -> None:  # noqa: ANN401 - whatever the place takes
        super().prepare(bundles)
        self.path.write_text("in the way")


class Cutting:
    """A registry whose server is killed as it commits a credential, before or after it did."""

    def __init__(self, registry: Registry, server: Servers, *, committed: bool) -> None:
        self._registry, self._server, self._committed = registry, server, committed

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the registry has
        return getattr(self._registry, name)

    async def set_credentials(self, hashes: Mapping[str, str | None], **more: Any) -> None:  # noqa: ANN401
        if self._committed:
            await self._registry.set_credentials(hashes, **more)
            self._server.postgres.kill()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")
        self._server.postgres.kill()
        await self._registry.set_credentials(hashes, **more)


async def told(desk: Desk, scooter_id: str) -> tuple[Standing, int]:
    found = await desk.registry.get(scooter_id)
    assert found is not None
    return found.standing, found.generation


def place_of(kind: str, folder: Path, scooter_id: str) -> tuple[Place, Path]:
    """One where a name is taken after it was tried, and the name that is."""
    if kind == "file":
        return ObstructedFile(folder / "one.json"), folder / "one.json"
    return Obstructed(folder), folder / scooter_id


async def test_a_rotation_whose_bundle_cannot_get_its_name_changes_nothing(
    desk: Desk, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    added = await desk.provisioning.add(
        NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path / "bundles")
    )
    other = FolderPlace(tmp_path / "other")
    other.path.mkdir()
    other.where(scooter_id).write_text("in the way")

    with pytest.raises(NotKept, match=f"{scooter_id}: a file is in the way"):
        await desk.provisioning.rotate(scooter_id, by=BY, place=other)

    assert await told(desk, scooter_id) == (Standing.ACTIVE, 1)
    assert [each.name for each in other.path.iterdir()] == [scooter_id]
    await desk.provisioning.add(NewScooter(fresh_id), by=BY)  # renders everybody's login
    assert await gets_in(document_of(added.bundle_at))


@pytest.mark.parametrize("kind", ["folder", "file"])
async def test_a_new_secret_that_counts_and_got_no_name_is_told_and_named_by_reconcile(
    desk: Desk, scooter_id: str, tmp_path: Path, kind: str
) -> None:
    added = await desk.provisioning.add(
        NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path / "bundles")
    )
    old = document_of(added.bundle_at)
    place, in_the_way = place_of(kind, tmp_path / "out", scooter_id)

    with pytest.raises(Unfinished) as caught:
        await desk.provisioning.rotate(scooter_id, by=BY, place=place)
    assert "the new secret counts" in str(caught.value)
    assert f"cannot get its name {in_the_way}" in str(caught.value)
    assert f"scooter devices reconcile --bundles {place.path}" in str(caught.value)
    assert await told(desk, scooter_id) == (Standing.REGISTERED, 2)

    with pytest.raises(Unfinished, match="cannot get its name"):
        await reconcile(desk.provisioning, by=BY, places=[place])
    in_the_way.unlink()
    done = await reconcile(desk.provisioning, by=BY, places=[place])

    assert (done.named, done.activated) == ([scooter_id], [scooter_id])
    assert await told(desk, scooter_id) == (Standing.ACTIVE, 2)
    assert await gets_in(document_of(place.where(scooter_id)))
    assert not await gets_in(old)


async def test_the_only_copy_of_a_secret_is_never_replaced_by_what_comes_next(
    desk: Desk, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    for name in (scooter_id, fresh_id):
        await desk.provisioning.add(NewScooter(name), by=BY)
    obstructed = Obstructed(tmp_path)
    with pytest.raises(Unfinished):
        await desk.provisioning.rotate(scooter_id, by=BY, place=obstructed)
    only = obstructed.unnamed()

    with pytest.raises(Unfinished):  # the same command goes on with its next scooter
        await desk.provisioning.rotate(fresh_id, by=BY, place=obstructed)
    with pytest.raises(NotNamed, match="cannot get its name"):
        await desk.provisioning.rotate(scooter_id, by=BY, place=FolderPlace(tmp_path))

    assert only[scooter_id] == obstructed.unnamed()[scooter_id]
    assert await told(desk, scooter_id) == (Standing.REGISTERED, 2)
    for name in (scooter_id, fresh_id):
        obstructed.where(name).unlink()
    await desk.provisioning.rotate(scooter_id, by=BY, place=FolderPlace(tmp_path))
    assert await told(desk, scooter_id) == (Standing.ACTIVE, 3)


async def test_an_import_finds_the_bundles_that_got_no_name(desk: Desk, tmp_path: Path) -> None:
    ids = ["SC-0001", "SC-0002"]
    rows = [ImportRow(line, name, NewScooter(name)) for line, name in enumerate(ids, 2)]
    obstructed = Obstructed(tmp_path)
    with pytest.raises(Unfinished, match=r"SC-0001, SC-0002: the new secret counts.*1 more"):
        [each async for each in Import(desk.provisioning, rows, place=obstructed, by=BY)]
    for name in ids:
        obstructed.where(name).unlink()

    place = FolderPlace(tmp_path)
    found = [each async for each in Import(desk.provisioning, rows, place=place, by=BY)]

    assert {each.detail for each in found} == {"its bundle was there already"}
    for name in ids:
        assert await told(desk, name) == (Standing.ACTIVE, 1)
        assert await gets_in(document_of(place.where(name)))


async def test_a_key_whose_bundle_got_no_name_is_told_and_named_by_reconcile(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.operators.add("alice", by=BY)
    place = Obstructed(tmp_path)
    with pytest.raises(Unfinished, match=rf"{KEY}: the new secret counts.*reconcile --bundles"):
        await desk.keys.add_key(KEY, by=BY, place=place)
    with pytest.raises(NotNamed):
        await desk.keys.rotate_key(KEY, by=BY, place=place)

    place.where(KEY).unlink()
    assert (await reconcile(desk.provisioning, by=BY, places=[place])).named == [KEY]
    assert await gets_in(document_of(place.where(KEY)))


async def test_a_key_whose_bundle_cannot_get_its_name_is_not_changed(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.operators.add("alice", by=BY)
    change = await desk.keys.add_key(KEY, by=BY)
    (tmp_path / KEY).write_text("in the way")

    with pytest.raises(NotKept, match="in the way"):
        await desk.keys.rotate_key(KEY, by=BY, place=FolderPlace(tmp_path))
    (key,) = await desk.operators.keys("alice")
    assert key.generation == 1
    assert await gets_in(document_of(change.bundle))


@pytest.mark.parametrize("committed", [True, False])
async def test_postgres_that_goes_as_a_rotation_is_committed_leaves_a_secret_that_gets_in(
    own_postgres: Servers,
    broker_place: BrokerPlace,
    scooter_id: str,
    tmp_path: Path,
    *,
    committed: bool,
) -> None:
    await migrate(own_postgres.postgres_url)
    place = FolderPlace(tmp_path)
    address = address_of(broker_place, own_postgres.postgres_url)

    def cut(target: object) -> object:
        if isinstance(target, Registry):
            return Cutting(target, own_postgres, committed=committed)
        return target

    async with open_desk(address) as desk:
        added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    old = document_of(added.bundle_at)
    async with open_desk(address, wrapped=cut) as desk:
        with pytest.raises(Unfinished) as caught:
            await desk.provisioning.rotate(scooter_id, by=BY, place=place)
    assert f"Whether {scooter_id} got a new secret is not known" in str(caught.value)
    assert f"scooter devices reconcile --bundles {place.path}" in str(caught.value)

    own_postgres.postgres.start()
    async with open_desk(address) as desk:
        done = await reconcile(desk.provisioning, by=BY, places=[place])
        assert done.named == ([scooter_id] if committed else [])
        assert await told(desk, scooter_id) == (Standing.ACTIVE, 2 if committed else 1)
    assert await gets_in(document_of(place.where(scooter_id)))
    assert await gets_in(old) is not committed
