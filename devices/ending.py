"""Ending access: many scooters with one reload of the broker, and each with its own evidence."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from broker.admission import Admitted
from broker.errors import FleetError
from devices.change import Change
from devices.gate import Forget, Gate, Out
from devices.refusals import Refused, cut_short, short, unfinished
from devices.registry import Registry, UnknownScooter
from devices.registry_errors import POSTGRES
from devices.standing import Standing, StandingError


@dataclass(frozen=True, slots=True)
class Ending:
    """A way in which access ends."""

    standing: Standing
    removes_credential: bool = False
    forgets: bool = False


SUSPEND: Final = Ending(Standing.SUSPENDED)
REVOKE: Final = Ending(Standing.SUSPENDED, removes_credential=True)
RETIRE: Final = Ending(Standing.RETIRED, forgets=True)

REVOKED: Final = "revoke"
"""How the audit tells that a credential is to be removed, in the transaction that suspends."""


async def end_access(
    registry: Registry,
    gate: Gate,
    scooter_ids: Sequence[str],
    ending: Ending,
    *,
    by: str,
    reason: str | None = None,
    forget: Forget | None = None,
) -> AsyncGenerator[Change | FleetError, None]:
    """What became of each: a change, or why it has none; one that fails holds up no other.

    Raises Unfinished, and then none of them is proved to be out, and what the driver raises
    before anything was changed.
    """
    outside: list[str] = []
    for scooter_id in dict.fromkeys(scooter_ids):
        try:
            await _move(registry, scooter_id, ending, outside, by=by, reason=reason)
        except (StandingError, UnknownScooter) as error:
            yield error
        else:
            outside.append(scooter_id)
    if not outside:
        return
    with unfinished(_doubt(outside, ending)):
        async with registry.locked():
            if ending.removes_credential:
                await _remove_credentials(registry, outside, by=by)
            back = await registry.logins(outside)
            admitted = await gate.admit(by=by)
    for scooter_id in back:
        yield Refused(f"{scooter_id} was let in again meanwhile, by another command.")
    out = gate.put_out(
        [each for each in outside if each not in back],
        doubt=partial(_doubt, ending=ending),
        kind="scooter",
        admitted=admitted,
        by=by,
        reason=reason,
        forget=forget if ending.forgets else None,
    )
    async for each in out:
        if isinstance(each, Out):
            with unfinished(f"{each.name} is out, and that is recorded."):
                change = await _change(registry, each, admitted)
            yield change
        else:
            yield each


async def _move(
    registry: Registry,
    scooter_id: str,
    ending: Ending,
    before: Sequence[str],
    *,
    by: str,
    reason: str | None,
) -> None:
    """Its new standing, from which on the gateway drops what it says."""
    meant = REVOKED if ending.removes_credential else None
    try:
        await registry.set_standing(scooter_id, ending.standing, by=by, reason=reason, meant=meant)
    except POSTGRES as error:
        if not before:
            raise
        raise cut_short(_doubt(before, ending), error) from error


async def _remove_credentials(registry: Registry, scooter_ids: Sequence[str], *, by: str) -> None:
    """Of those that have one now, not when the command began."""
    kept = {each.scooter_id async for each in registry.find(ids=scooter_ids) if each.has_credential}
    await registry.set_credentials(dict.fromkeys(kept, None), by=by)


async def _change(registry: Registry, out: Out, admitted: Admitted) -> Change:
    found = await registry.get(out.name)
    if found is None:
        raise UnknownScooter([out.name])
    return Change(scooter=found, admitted=admitted, ended=out.ended, forgotten=out.forgotten)


def _doubt(scooter_ids: Sequence[str], ending: Ending) -> str:
    return (
        f"{short(scooter_ids)}: {ending.standing}, and the gateway drops what is said; but it is "
        "not proved that the broker keeps it out."
    )
