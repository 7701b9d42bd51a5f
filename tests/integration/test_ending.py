"""Ending the access of many at once, beside other commands, and with Postgres dying in between."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker.admission import Admitted, Ended
from broker.errors import FleetError
from devices.bundle_places import FolderPlace
from devices.change import Change
from devices.ending import RETIRE, REVOKE, SUSPEND, Ending
from devices.reconciling import Reconciled, reconcile
from devices.refusals import Refused, Unfinished
from devices.registry import NewScooter, Standing, StandingError, UnknownScooter
from gateway.local.servers import Servers
from gateway.storage.migrate import migrate
from tests.broker_place import BrokerPlace
from tests.desk import BY, Desk, address_of, document_of, gets_in, open_desk

HOLD_S = 0.2
"""How long the desks of tests hold a client id."""


class Town:
    """A broker that tells who it lets in; `ghosts` take their client id back."""

    def __init__(self, *ghosts: str) -> None:
        self.inside: Mapping[str, str] = {}
        self.reloads = 0
        self.ghosts = ghosts

    async def listed(self) -> None:
        return None

    async def admit(self, logins: Mapping[str, str]) -> Admitted:
        self.inside = logins
        self.reloads += 1
        return Admitted(len(logins), None, "0" * 64, "none", 0.0)

    async def end_session(self, client_id: str) -> Ended:
        return Ended(client_id, datetime.now(UTC), 0.1, returned=client_id in self.ghosts)


async def outcomes(desk: Desk, ids: list[str], ending: Ending) -> list[Change | FleetError]:
    return [each async for each in desk.provisioning.end_access(ids, ending, by=BY)]


async def registered(desk: Desk, scooter_id: str, count: int) -> list[str]:
    ids = [f"{scooter_id}-{number:02}" for number in range(count)]
    await desk.registry.add([NewScooter(each) for each in ids], by=BY)
    return ids


async def test_many_are_put_out_at_once_and_each_has_its_own_evidence(
    desk: Desk, scooter_id: str
) -> None:
    ids = await registered(desk, scooter_id, 40)
    started = time.monotonic()
    found = await outcomes(desk, [*ids, ids[0]], REVOKE)
    took_s = time.monotonic() - started

    assert [each.scooter.scooter_id for each in found if isinstance(each, Change)] == ids
    assert [each.ended.client_id for each in found if isinstance(each, Change) and each.ended] == (
        ids
    )
    assert took_s < HOLD_S * len(ids)
    for each in ids:
        assert (await desk.actions(each))[-1] == "kept out"


async def test_many_take_one_reload(desk: Desk, scooter_id: str) -> None:
    ids = await registered(desk, scooter_id, 3)
    town = Town()
    async with open_desk(desk.address, broker=town) as other:
        await outcomes(other, ids, SUSPEND)
    assert town.reloads == 1


async def test_whoever_is_refused_or_comes_back_holds_up_nobody(
    desk: Desk, scooter_id: str
) -> None:
    ids = await registered(desk, scooter_id, 25)
    await desk.registry.set_standing(ids[0], Standing.RETIRED, by=BY)
    async with open_desk(desk.address, broker=Town(ids[1])) as other:
        found = await outcomes(other, ["NOBODY", *ids], REVOKE)

    unknown, retired, ghost, *rest = found
    assert isinstance(unknown, UnknownScooter)
    assert isinstance(retired, StandingError)
    assert isinstance(ghost, Unfinished)
    assert "came back" in str(ghost)
    assert [each.scooter.scooter_id for each in rest if isinstance(each, Change)] == ids[2:]
    assert await desk.registry.unproved("scooter") == ids[:2]


async def test_two_commands_that_end_one_session_do_not_take_each_other_for_a_thief(
    desk: Desk, scooter_id: str
) -> None:
    gate = desk.provisioning.gate
    found = await asyncio.gather(gate.end_session(scooter_id), gate.end_session(scooter_id))

    assert not any(each.returned for each in found)


async def test_reconcile_puts_out_all_but_the_one_that_comes_back(
    desk: Desk, scooter_id: str
) -> None:
    ids = await registered(desk, scooter_id, 25)
    for each in ids:
        await desk.registry.set_standing(each, Standing.SUSPENDED, by=BY)
    done = Reconciled()
    async with open_desk(desk.address, broker=Town(ids[0])) as other:
        with pytest.raises(Unfinished, match=f"{ids[0]}.*came back"):
            await reconcile(other.provisioning, by=BY, done=done)

    assert [each.client_id for each in done.put_out] == ids[1:]
    assert await desk.registry.unproved("scooter") == ids[:1]


async def test_a_suspension_keeps_the_secret_whatever_its_reason(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)
    await desk.provisioning.suspend(scooter_id, by=BY, reason="revoke it? ask ann")

    assert (await reconcile(desk.provisioning, by=BY)).revoked == []
    await desk.provisioning.resume(scooter_id, by=BY)
    assert await gets_in(document_of(added.bundle_at))


class Between:
    """A registry in which something happens each time before a method."""

    def __init__(self, target: Any, method: str, happens: Any) -> None:  # noqa: ANN401 - a stand-in
        self._target, self._method, self._happens = target, method, happens

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the target has
        found = getattr(self._target, name)
        if name != self._method:
            return found

        async def call(*arguments: object, **more: object) -> object:
            await self._happens()
            return await found(*arguments, **more)

        return call


async def test_nobody_is_told_to_be_out_who_was_let_in_again_meanwhile(
    desk: Desk, scooter_id: str, tmp_path: Path
) -> None:
    added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=FolderPlace(tmp_path))
    desk.provisioning.registry = Between(  # type: ignore[assignment]
        desk.registry,
        "logins",
        lambda: desk.registry.set_standing(scooter_id, Standing.ACTIVE, by=BY),
    )
    with pytest.raises(Refused, match="let in again"):
        await desk.provisioning.suspend(scooter_id, by=BY)

    assert "kept out" not in await desk.actions(scooter_id)
    assert await gets_in(document_of(added.bundle_at))


async def test_a_list_that_was_overtaken_because_the_lock_was_lost_does_not_stay(
    desk: Desk, scooter_id: str, fresh_id: str
) -> None:
    for each in (scooter_id, fresh_id):
        change = await desk.provisioning.add(NewScooter(each), by=BY)
        await desk.provisioning.handed_over(change, by=BY)
    town = Town()
    admit = town.admit

    async def overtaken(logins: Mapping[str, str]) -> Admitted:
        # Between our reading and our writing another host revokes, and proves it.
        if town.reloads == 0:
            await admit({})
            await desk.registry.set_standing(scooter_id, Standing.SUSPENDED, by="another host")
        return await admit(logins)

    town.admit = overtaken  # type: ignore[method-assign]
    async with open_desk(desk.address, broker=town) as other:
        admitted = await other.provisioning.gate.admit(by=BY)

    assert set(town.inside) == {fresh_id}
    assert admitted.logins == 1


@pytest.mark.parametrize("ending", [SUSPEND, REVOKE, RETIRE])
async def test_postgres_that_dies_in_the_middle_is_told_with_what_was_done(
    own_postgres: Servers,
    broker_place: BrokerPlace,
    scooter_id: str,
    tmp_path: Path,
    ending: Ending,
) -> None:
    await migrate(own_postgres.postgres_url)
    async with open_desk(address_of(broker_place, own_postgres.postgres_url)) as desk:
        place = FolderPlace(tmp_path)
        added = await desk.provisioning.add(NewScooter(scooter_id), by=BY, place=place)

        async def dies() -> None:
            await asyncio.to_thread(own_postgres.postgres.kill)

        desk.provisioning.registry = Between(  # type: ignore[assignment]
            desk.registry, "logins", dies
        )
        with pytest.raises(Unfinished, match=rf"{scooter_id}: .*not proved.*Postgres.*reconcile"):
            await outcomes(desk, [scooter_id], ending)

        await asyncio.to_thread(own_postgres.postgres.start)
        desk.provisioning.registry = desk.registry
        assert (await reconcile(desk.provisioning, by=BY)).put_out
        assert not await gets_in(document_of(added.bundle_at))


async def test_a_secret_that_postgres_kept_from_being_shown_is_told(
    own_postgres: Servers, broker_place: BrokerPlace, scooter_id: str
) -> None:
    await migrate(own_postgres.postgres_url)
    async with open_desk(address_of(broker_place, own_postgres.postgres_url)) as desk:

        async def dies() -> None:
            await asyncio.to_thread(own_postgres.postgres.kill)

        desk.provisioning.gate._registry = Between(  # type: ignore[assignment]  # noqa: SLF001
            desk.registry, "audit", dies
        )
        with pytest.raises(Unfinished, match=r"not shown.*Postgres.*devices rotate"):
            await desk.provisioning.add(NewScooter(scooter_id), by=BY)
