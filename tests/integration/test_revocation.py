"""Revocation: the live session ends, the login never comes back, and both are proved."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from broker.accounts import secret_hash
from broker.admission import Admitted, Ended
from devices.bundle_places import FolderPlace
from devices.operators import OperatorError, UnknownOperator
from devices.reconciling import reconcile
from devices.refusals import Refused, Unfinished
from devices.registry import NewScooter, Standing
from tests.broker_place import BrokerPlace
from tests.desk import (
    BY,
    Desk,
    Document,
    client_of,
    document_of,
    ends,
    gets_in,
    open_desk,
)

WITHIN_S: Final = 2.0
"""What an operator is promised, from the command to the end of the session."""


@asynccontextmanager
async def cut_within(bundle: Document) -> AsyncIterator[None]:
    """Whoever lives on this bundle's session is disconnected by what happens inside, in time."""
    async with client_of(bundle) as client:
        started = time.monotonic()
        cut = asyncio.create_task(ends(client))
        cut.add_done_callback(lambda _: took.append(time.monotonic() - started))
        took: list[float] = []
        yield
        await cut
    assert took[0] < WITHIN_S


async def added(desk: Desk, scooter_id: str, folder: Path) -> Document:
    change = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(folder))
    return document_of(change.bundle_at)


@pytest.mark.parametrize("verb", ["suspend", "revoke", "retire"])
async def test_a_live_session_ends_in_time_and_cannot_come_back(
    desk: Desk, scooter_id: str, tmp_path: Path, verb: str
) -> None:
    bundle = await added(desk, scooter_id, tmp_path)
    async with cut_within(bundle):
        change = await getattr(desk.provisioning, verb)(scooter_id, by=BY, reason="stolen")

    assert not await gets_in(bundle)
    assert change.admitted.logins == 0
    assert change.ended.client_id == scooter_id
    assert not change.ended.returned


async def test_the_others_stay_connected(
    desk: Desk, scooter_id: str, fresh_id: str, tmp_path: Path
) -> None:
    await added(desk, scooter_id, tmp_path)
    other = await added(desk, fresh_id, tmp_path)
    async with client_of(other) as client:
        await desk.provisioning.revoke(scooter_id, by=BY)
        async with asyncio.timeout(10):
            await client.publish(other["topics"]["telemetry"], b"{}", qos=1)


async def test_the_audit_has_the_evidence(desk: Desk, scooter_id: str, tmp_path: Path) -> None:
    await added(desk, scooter_id, tmp_path)
    change = await desk.provisioning.revoke(scooter_id, by="ann", reason="stolen")
    newest = (await desk.registry.audits(scooter_id))[0]

    assert await desk.actions(scooter_id) == [
        *("add", "credential", "active"),
        *("suspended", "revoke", "no credential", "kept out"),
    ]
    assert (newest.by, newest.reason) == ("ann", "stolen")
    assert change.admitted is not None
    assert newest.detail["sha256"] == change.admitted.sha256
    assert newest.detail["returned"] is False
    assert newest.detail["held_s"] > 0
    assert not await desk.registry.unproved("scooter")


async def test_a_revoked_login_cannot_be_created_again(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    bundle = await added(desk, scooter_id, tmp_path)
    await desk.provisioning.revoke(scooter_id, by=BY)

    with pytest.raises(Refused):
        await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path))
    assert not await gets_in(bundle)

    resumed = await desk.provisioning.resume(scooter_id, by=BY)
    assert resumed.scooter.standing is Standing.REGISTERED
    assert not await gets_in(bundle)

    rotated = await desk.provisioning.rotate(scooter_id, by=BY, place=FolderPlace(tmp_path))
    assert rotated.scooter.generation == 2
    assert not await gets_in(bundle)
    assert await gets_in(document_of(rotated.bundle_at))


async def test_a_scooter_that_was_never_seen_can_be_revoked_too(
    desk: Desk, scooter_id: str
) -> None:
    await desk.registry.add([NewScooter(scooter_id)], by=BY)
    change = await desk.provisioning.revoke(scooter_id, by=BY)

    assert change.scooter.standing is Standing.SUSPENDED
    assert change.scooter.generation == 0


@pytest.mark.parametrize("verb", ["suspend", "revoke", "retire"])
async def test_with_the_broker_away_the_gateway_drops_it_and_reconcile_finishes(
    desk: Desk, broker_place: BrokerPlace, scooter_id: str, tmp_path: Path, verb: str
) -> None:
    bundle = await added(desk, scooter_id, tmp_path)
    broker_place.server.stop()
    try:
        with pytest.raises(Unfinished, match=r"gateway drops.*not proved.*reconcile"):
            await getattr(desk.provisioning, verb)(scooter_id, by=BY)
        found = await desk.registry.get(scooter_id)
        assert found is not None
        assert found.standing in {Standing.SUSPENDED, Standing.RETIRED}
        with pytest.raises(Unfinished, match=r"not proved.*reconcile"):
            await reconcile(desk.provisioning, by=BY)
    finally:
        broker_place.server.start()

    done = await reconcile(desk.provisioning, by=BY)

    assert [each.client_id for each in done.put_out] == [scooter_id]
    assert not await gets_in(bundle)
    assert desk.forgotten == ([scooter_id] if verb == "retire" else [])
    assert (await reconcile(desk.provisioning, by=BY)).sentences == []


class Haunted:
    """A broker where somebody takes the client id back."""

    async def listed(self) -> None:
        return None

    async def admit(self, logins: Mapping[str, str]) -> Admitted:
        return Admitted(len(logins), None, "0" * 64, "none", 0.0)

    async def end_session(self, client_id: str) -> Ended:
        return Ended(client_id, datetime.now(UTC), 0.1, returned=True)


async def test_a_session_that_comes_back_is_told_and_stays_open_in_the_books(
    desk: Desk, scooter_id: str
) -> None:
    await desk.registry.add([NewScooter(scooter_id)], by=BY)
    async with open_desk(desk.address, broker=Haunted()) as haunted:
        with pytest.raises(Unfinished, match="came back"):
            await haunted.provisioning.retire(scooter_id, by=BY)

    assert desk.forgotten == []
    assert await desk.registry.unproved("scooter") == [scooter_id]


async def test_a_password_file_that_somebody_changed_is_mended_and_told(
    desk: Desk, broker_place: BrokerPlace, scooter_id: str, tmp_path: Path
) -> None:
    bundle = await added(desk, scooter_id, tmp_path)
    intruder = broker_place.scooter("INTRUDER")
    await broker_place.admission().admit({intruder.name: secret_hash(intruder.secret)})
    assert await broker_place.lets_in(intruder)

    done = await reconcile(desk.provisioning, by=BY)

    assert done.differed == sorted(["INTRUDER", scooter_id])
    assert "INTRUDER" in done.sentences[0]
    assert await gets_in(bundle)
    assert not await broker_place.lets_in(intruder)


async def test_many_that_nothing_proves_out_are_put_out_together(
    desk: Desk, scooter_id: str
) -> None:
    ids = [f"{scooter_id}-{number:02}" for number in range(45)]
    await desk.registry.add([NewScooter(each) for each in ids], by=BY)
    for each in ids:
        await desk.registry.set_standing(each, Standing.RETIRED, by=BY)

    done = await reconcile(desk.provisioning, by=BY)

    assert [each.client_id for each in done.put_out] == ids
    assert sorted(desk.forgotten) == ids
    assert "and 35 more" in " ".join(done.sentences)


async def test_an_operators_key_opens_its_own_topics_and_ends_in_time(
    desk: Desk, broker_place: BrokerPlace, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    await desk.operators.add("alice", by=BY)
    change = await desk.keys.add_key("alice.laptop", by=BY, place=place)
    bundle = document_of(change.bundle_at)
    async with (
        broker_place.client(broker_place.fixed("gateway")) as gateway,
        client_of(bundle) as operator,
    ):
        await gateway.subscribe("operators/+/commands", qos=1)
        await operator.publish(bundle["topics"]["commands"], b"{}", qos=1)
        async with asyncio.timeout(10):
            message = await anext(aiter(gateway.messages))
    assert str(message.topic) == "operators/alice.laptop/commands"

    async with cut_within(bundle):
        rotated = await desk.keys.rotate_key("alice.laptop", by=BY)
    new = document_of(rotated.bundle)
    assert not await gets_in(bundle)
    assert await gets_in(new)

    for _ in range(2):
        revoked = await desk.keys.revoke_key("alice.laptop", by=BY)
        assert [each.client_id for each in revoked.ended] == ["alice.laptop"]
    assert not await gets_in(new)
    assert not await desk.registry.unproved("key")


async def test_revoking_an_operator_ends_every_key(desk: Desk) -> None:
    await desk.operators.add("bob", by=BY)
    logins = ("bob.desk", "bob.phone")
    bundles = [document_of((await desk.keys.add_key(each, by=BY)).bundle) for each in logins]
    async with cut_within(bundles[0]), cut_within(bundles[1]):
        revoked = await desk.keys.revoke_operator("bob", by=BY)

    assert revoked.logins == logins
    assert not any([await gets_in(each) for each in bundles])
    with pytest.raises(UnknownOperator, match="revoked"):
        await desk.keys.add_key("bob.desk", by=BY)


async def test_a_key_is_refused_before_anything_is_written(desk: Desk, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "out")
    await desk.operators.add("carol", by=BY)
    await desk.keys.add_key("carol.desk", by=BY)

    with pytest.raises(Refused):
        await desk.keys.add_key("../carol", by=BY, place=place)
    with pytest.raises(OperatorError, match="exists"):
        await desk.keys.add_key("carol.desk", by=BY, place=place)
    with pytest.raises(UnknownOperator):
        await desk.keys.rotate_key("carol.phone", by=BY, place=place)
    assert place.secrets(["carol.desk", "carol.phone"]) == {}


async def test_a_revoked_key_is_finished_by_reconcile(
    desk: Desk, broker_place: BrokerPlace
) -> None:
    await desk.operators.add("dave", by=BY)
    bundle = document_of((await desk.keys.add_key("dave.desk", by=BY)).bundle)
    broker_place.server.stop()
    try:
        with pytest.raises(Unfinished, match="refuses what it asks"):
            await desk.keys.revoke_key("dave.desk", by=BY)
    finally:
        broker_place.server.start()

    done = await reconcile(desk.provisioning, by=BY)

    assert [each.client_id for each in done.put_out] == ["dave.desk"]
    assert not await gets_in(bundle)
