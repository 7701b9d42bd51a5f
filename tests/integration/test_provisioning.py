"""Provisioning on a real broker and a real registry: what a bundle opens, and what closes it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from devices.bundle_places import FilePlace, FolderPlace, NotKept
from devices.contract.mac import command_key
from devices.issuing import issue
from devices.reconciling import reconcile
from devices.refusals import Refused, Unfinished
from devices.registry import NewScooter, Standing, UnknownScooter
from devices.standing import StandingError
from gateway.local.servers import Servers
from gateway.storage.postgres import AWAY, migrate
from tests.broker_place import BrokerPlace
from tests.desk import (
    BY,
    FLEET_SECRET,
    Desk,
    address_of,
    client_of,
    document_of,
    ends,
    gets_in,
    open_desk,
)


async def test_whoever_has_the_bundle_gets_in_as_that_scooter_and_is_heard(
    desk: Desk, broker_place: BrokerPlace, scooter_id: str, tmp_path: Path
) -> None:
    change = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path))
    bundle = document_of(change.bundle_at)

    assert change.scooter.standing is Standing.ACTIVE
    assert change.bundle_at == tmp_path / scooter_id
    assert change.admitted is not None
    assert change.admitted.logins == 1
    assert bundle["command_key"] == command_key(FLEET_SECRET, scooter_id, 1).hex()
    async with (
        broker_place.client(broker_place.fixed("gateway")) as gateway,
        client_of(bundle) as scooter,
    ):
        await gateway.subscribe("scooters/+/telemetry", qos=1)
        await scooter.publish(bundle["topics"]["telemetry"], b'{"batt":87}', qos=1)
        async with asyncio.timeout(10):
            message = await anext(aiter(gateway.messages))
    assert str(message.topic) == f"scooters/{scooter_id}/telemetry"
    assert await desk.actions(scooter_id) == ["add", "credential", "active"]


async def test_a_printed_secret_counts_as_handed_over_only_once_it_was_printed(
    desk: Desk, scooter_id: str
) -> None:
    change = await desk.provisioning.add(NewScooter(scooter_id), by=BY)
    assert change.scooter.standing is Standing.REGISTERED
    assert await gets_in(document_of(change.bundle))

    for _ in range(2):
        assert (await desk.provisioning.handed_over(change, by=BY)).standing is Standing.ACTIVE


async def test_a_secret_that_was_replaced_meanwhile_is_not_handed_over(
    desk: Desk, scooter_id: str
) -> None:
    printed = await desk.provisioning.add(NewScooter(scooter_id), by=BY)
    await desk.provisioning.rotate(scooter_id, by=BY)

    with pytest.raises(Refused, match="another secret"):
        await desk.provisioning.handed_over(printed, by=BY)
    found = await desk.registry.get(scooter_id)
    assert found is not None
    assert found.standing is Standing.REGISTERED


@pytest.mark.parametrize(
    ("verbs", "told"),
    [
        ([], "is active already.*rotate"),
        (["suspend"], "is suspended.*resume"),
        (["revoke"], "is suspended and its credential revoked.*rotate"),
        (["retire"], "is retired for ever: take another id"),
        (["revoke", "resume"], "never handed over.*rotate"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_adding_again_never_makes_a_new_secret(
    desk: Desk, scooter_id: str, tmp_path: Path, verbs: list[str], told: str
) -> None:
    place = FolderPlace(tmp_path)
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    before = document_of(place.where(scooter_id))
    for verb in verbs:
        await getattr(desk.provisioning, verb)(scooter_id, by=BY)

    for again in (place, FolderPlace(tmp_path / "elsewhere"), None):
        with pytest.raises(Refused, match=told):
            await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=again)

    found = await desk.registry.get(scooter_id)
    assert found is not None
    assert found.generation == 1
    assert document_of(place.where(scooter_id)) == before
    assert await gets_in(before) is (not verbs)


async def test_rotating_ends_the_old_secret_and_the_live_session(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    place = FilePlace(tmp_path / "bundle.json")
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    old = document_of(added.bundle_at)
    async with client_of(old) as scooter:
        rotated = await desk.provisioning.rotate(scooter_id, by=BY, place=place)
        await ends(scooter)

    new = document_of(rotated.bundle_at)
    assert not await gets_in(old)
    assert await gets_in(new)
    assert rotated.scooter.standing is Standing.ACTIVE
    assert rotated.scooter.generation == 2
    assert new["command_key"] == command_key(FLEET_SECRET, scooter_id, 2).hex()
    assert new["command_key"] != old["command_key"]


async def test_a_rotated_secret_that_was_never_printed_is_found_again(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path))
    rotated = await desk.provisioning.rotate(scooter_id, by=BY)

    assert rotated.scooter.standing is Standing.REGISTERED
    assert await gets_in(document_of(rotated.bundle))


async def test_a_suspended_scooter_comes_back_with_the_same_credential(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    bundle = document_of(added.bundle_at)

    for _ in range(2):
        suspended = await desk.provisioning.suspend(scooter_id, by=BY, reason="in repair")
        assert suspended.scooter.standing is Standing.SUSPENDED
        assert not await gets_in(bundle)
    for _ in range(2):
        resumed = await desk.provisioning.resume(scooter_id, by=BY)
        assert resumed.scooter.standing is Standing.ACTIVE
        assert await gets_in(bundle)


async def test_a_suspended_scooter_may_get_a_new_secret_and_stays_out(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    await desk.provisioning.revoke(scooter_id, by=BY)
    rotated = await desk.provisioning.rotate(scooter_id, by=BY, place=place)

    assert rotated.scooter.standing is Standing.SUSPENDED
    assert not await gets_in(document_of(rotated.bundle_at))
    await desk.provisioning.resume(scooter_id, by=BY)
    assert await gets_in(document_of(rotated.bundle_at))


async def test_suspending_one_that_was_never_handed_over_does_not_make_it_active(
    desk: Desk, scooter_id: str
) -> None:
    await desk.provisioning.add(NewScooter(scooter_id), by=BY)
    await desk.provisioning.suspend(scooter_id, by=BY)
    resumed = await desk.provisioning.resume(scooter_id, by=BY)

    assert resumed.scooter.standing is Standing.REGISTERED


async def test_of_two_that_add_one_scooter_at_once_one_is_refused(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    places = [FolderPlace(tmp_path / name) for name in "ab"]
    results = await asyncio.gather(
        *(desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place) for place in places),
        return_exceptions=True,
    )

    (refused,) = [each for each in results if isinstance(each, BaseException)]
    assert isinstance(refused, Refused)
    (bundle,) = [
        document_of(place.where(scooter_id)) for place in places if place.secrets([scooter_id])
    ]
    assert await gets_in(bundle)


async def test_whoever_lost_the_lock_leaves_no_bundle_with_a_wrong_secret(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    """The lock dies with its connection, and another desk is quicker."""
    slow, quick = FolderPlace(tmp_path / "slow"), FolderPlace(tmp_path / "quick")
    await desk.registry.add([NewScooter(scooter_id)], by=BY)
    facts = desk.provisioning.facts
    await issue(desk.registry, facts, {scooter_id: 1}, place=quick, by=BY)

    with pytest.raises(Exception, match="meanwhile"):
        await issue(desk.registry, facts, {scooter_id: 1}, place=slow, by=BY)
    assert slow.secrets([scooter_id]) == {}
    assert quick.secrets([scooter_id]) != {}


async def test_what_cannot_be_written_registers_nothing(
    desk: Desk, scooter_id: str, unwritable: Path
) -> None:

    with pytest.raises(NotKept, match="file"):
        await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(unwritable))
    assert await desk.registry.get(scooter_id) is None


async def test_a_rotation_that_cannot_be_written_leaves_the_old_secret(
    desk: Desk, scooter_id: str, tmp_path: Path, unwritable: Path
) -> None:
    place = FolderPlace(tmp_path / "bundles")
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)

    with pytest.raises(NotKept):
        await desk.provisioning.rotate(scooter_id, by=BY, place=FolderPlace(unwritable))
    found = await desk.registry.get(scooter_id)
    assert found is not None
    assert found.standing is Standing.ACTIVE
    assert await gets_in(document_of(added.bundle_at))


async def test_a_vehicle_id_that_is_taken_is_refused_and_leaves_no_bundle(
    desk: Desk, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)

    with pytest.raises(Refused, match=f"taken by {scooter_id}"):
        await desk.provisioning.add(NewScooter(fresh_id, vehicle_id=scooter_id), by=BY, place=place)
    assert names_in(tmp_path) == [scooter_id]


@pytest.mark.parametrize("name", ["../../etc", "x", "Gateway", "alice.laptop", ""])
async def test_no_file_is_made_for_what_cannot_be_an_id(
    desk: Desk, name: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused):
        await desk.provisioning.add(NewScooter(name), by=BY, place=FolderPlace(tmp_path / "out"))
    assert names_in(tmp_path) == []


async def test_while_the_broker_is_away_nothing_is_claimed_and_reconcile_is_named(
    desk: Desk, broker_place: BrokerPlace, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    broker_place.server.stop()
    try:
        with pytest.raises(Unfinished, match=r"does not get in yet.*reconcile --bundles"):
            await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
        with pytest.raises(Unfinished, match=rf"not shown.*rotate {fresh_id}"):
            await desk.provisioning.add(NewScooter(fresh_id), by=BY)
    finally:
        broker_place.server.start()

    again = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)

    assert again.scooter.standing is Standing.ACTIVE
    assert again.scooter.generation == 1
    assert await gets_in(document_of(again.bundle_at))
    with pytest.raises(Refused, match=r"never handed over.*rotate"):
        await desk.provisioning.add(NewScooter(fresh_id), by=BY, place=place)


async def test_a_scooter_that_nobody_registered_is_not_found(desk: Desk, scooter_id: str) -> None:
    for verb in ("rotate", "suspend", "resume", "revoke", "retire"):
        with pytest.raises(UnknownScooter):
            await getattr(desk.provisioning, verb)(scooter_id, by=BY)
    assert await desk.actions(scooter_id) == []


async def test_what_is_retired_stays_so(desk: Desk, scooter_id: str, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    for _ in range(2):
        retired = await desk.provisioning.retire(scooter_id, by=BY, reason="scrapped")
        assert retired.scooter.standing is Standing.RETIRED
        assert not retired.scooter.has_credential

    for verb in ("rotate", "suspend", "resume", "revoke"):
        with pytest.raises(StandingError):
            await getattr(desk.provisioning, verb)(scooter_id, by=BY)
    assert desk.forgotten == [scooter_id, scooter_id]
    assert not await gets_in(document_of(added.bundle_at))


async def test_a_password_file_that_cannot_be_written_is_told_and_reconcile_named(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    broken = replace(desk.address, password_file=str(tmp_path / "nowhere" / "passwords"))
    async with open_desk(broken) as other:
        with pytest.raises(Unfinished, match=r"not proved.*cannot be written.*reconcile"):
            await other.provisioning.revoke(scooter_id, by=BY)

    assert (await reconcile(desk.provisioning, by=BY)).put_out
    assert not await gets_in(document_of(added.bundle_at))


async def test_while_postgres_is_away_nothing_is_changed_and_no_bundle_is_left(
    own_postgres: Servers, broker_place: BrokerPlace, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    await migrate(own_postgres.postgres_url)
    place = FolderPlace(tmp_path / "bundles")
    async with open_desk(address_of(broker_place, own_postgres.postgres_url)) as desk:
        added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
        own_postgres.postgres.kill()
        with pytest.raises(AWAY):
            await desk.provisioning.add(NewScooter(fresh_id), by=BY, place=place)
        for verb in ("rotate", "suspend", "resume", "revoke", "retire"):
            with pytest.raises(AWAY):
                await getattr(desk.provisioning, verb)(scooter_id, by=BY)
        assert await gets_in(document_of(added.bundle_at))

        own_postgres.postgres.start()
        assert names_in(place.path) == [scooter_id]
        await desk.provisioning.add(NewScooter(fresh_id), by=BY, place=place)
        await desk.provisioning.revoke(scooter_id, by=BY)
        assert not await gets_in(document_of(added.bundle_at))


async def test_no_secret_is_in_the_registry_or_its_audit(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    change = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path))
    rotated = await desk.provisioning.rotate(scooter_id, by=BY)
    await desk.provisioning.handed_over(rotated, by=BY)
    tables = ("scooters", "access_audit")
    everything = "".join(
        [str(await desk.pool.fetch(f"SELECT * FROM {each}")) for each in tables]  # noqa: S608
    )

    for bundle in (document_of(change.bundle_at), document_of(rotated.bundle)):
        assert bundle["secret"] not in everything + repr(change) + repr(rotated)
        assert bundle["command_key"] not in everything + repr(change) + repr(rotated)


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())
