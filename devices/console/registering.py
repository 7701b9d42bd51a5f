"""What the commands do that make scooters known: add, import; and reconcile."""

from collections.abc import Sequence
from pathlib import Path

from devices.bundle_places import place_for
from devices.console.access import hand_over, provisioning
from devices.console.handing import each_in_turn
from devices.console.workshop import Workshop
from devices.provisioning import Change
from devices.scooters import NewScooter


async def add(
    workshop: Workshop, scooters: Sequence[NewScooter], *, out: Path | None, by: str, as_json: bool
) -> None:
    """Raises what is refused of them together, after the others are added."""
    place = place_for(out) if out else None
    async with provisioning(workshop, makes_bundles=True) as desk:

        async def change(scooter: NewScooter) -> Change:
            return await desk.add(scooter, by=by, place=place)

        await each_in_turn("adding", scooters, change, hand_over(desk, by=by, as_json=as_json))
