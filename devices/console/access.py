"""What the commands do that give and take a scooter's access."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from devices.bundle import BundleFacts
from devices.bundle_places import place_for
from devices.change import Change
from devices.console.handing import in_turn, print_changes, tell_each
from devices.console.output import talk
from devices.console.workshop import Workshop
from devices.ending import Ending
from devices.provisioning import Provisioning
from devices.registry import Registry
from devices.standing import Standing

NO_BUNDLES: Final = BundleFacts(host="", authority_pem="")
"""For verbs that make no bundle: access is taken also where nobody said what is in one."""


@asynccontextmanager
async def provisioning(
    workshop: Workshop, *, makes_bundles: bool
) -> AsyncGenerator[Provisioning, None]:
    """Ready to change access; raises a FleetError that names a setting which is missing."""
    broker, facts = workshop.broker(), workshop.facts() if makes_bundles else NO_BUNDLES
    async with workshop.pool() as pool:
        yield Provisioning(
            registry=Registry(pool), broker=broker, facts=facts, forget=workshop.forget
        )


async def end(
    workshop: Workshop,
    what: str,
    ids: Sequence[str],
    ending: Ending,
    *,
    reason: str | None,
    by: str,
    as_json: bool,
) -> None:
    """Suspend, revoke or retire; raises together what was refused, or is not proved, of some."""

    async def tell(changes: list[Change]) -> None:
        print_changes(changes, as_json=as_json)

    async with provisioning(workshop, makes_bundles=False) as desk:
        outcomes = desk.end_access(ids, ending, by=by, reason=reason)
        await tell_each(what, len(ids), outcomes, tell)


async def resume(
    workshop: Workshop, ids: Sequence[str], *, reason: str | None, by: str, as_json: bool
) -> None:
    """Tells which of them need a new secret."""
    async with provisioning(workshop, makes_bundles=False) as desk:

        async def change(scooter_id: str) -> Change:
            return await desk.resume(scooter_id, by=by, reason=reason)

        async def tell(changes: list[Change]) -> None:
            print_changes(changes, as_json=as_json)
            for each in changes:
                if not each.scooter.has_credential:
                    name = each.scooter.scooter_id
                    talk(f"{name} has no secret any more: `scooter devices rotate {name}`")

        await tell_each("resuming", len(ids), in_turn(ids, change), tell)


async def rotate(
    workshop: Workshop, ids: Sequence[str], *, out: Path | None, by: str, as_json: bool
) -> None:
    """New secrets: written to `out`, else printed and then counted as handed over."""
    place = place_for(out) if out else None
    async with provisioning(workshop, makes_bundles=True) as desk:

        async def change(scooter_id: str) -> Change:
            return await desk.rotate(scooter_id, by=by, place=place)

        tell = hand_over(desk, by=by, as_json=as_json)
        await tell_each("rotating", len(ids), in_turn(ids, change), tell)


def hand_over(
    desk: Provisioning, *, by: str, as_json: bool
) -> Callable[[list[Change]], Awaitable[None]]:
    """Print secrets, and only then note that they reached somebody."""

    async def tell(changes: list[Change]) -> None:
        print_changes(changes, as_json=as_json)
        for each in changes:
            if each.bundle is not None and each.scooter.standing is Standing.REGISTERED:
                await desk.handed_over(each, by=by)

    return tell
