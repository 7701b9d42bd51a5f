"""Reconciling: finishes what was interrupted, and says what only a person can."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.admission import Admitted, Ended
from broker.errors import FleetError
from devices.access_audit import Kind
from devices.bundle_places import NotNamed, Place
from devices.gate import Out
from devices.issuing import bundles_that_match, name_left
from devices.provisioning import Provisioning
from devices.refusals import cut_short, raise_all, short, unfinished
from devices.scooters import Scooter
from devices.standing import Standing

_DOUBT: Final = "The registry is in order; that the broker follows it is not proved."
_ONLY_COPY: Final = "A bundle whose secret counts was found under no name."
_AGAIN: Final = "Then run `scooter devices reconcile` again."


@dataclass(slots=True)
class Reconciled:
    """What was found, and done; every list is empty when all was in order."""

    admitted: Admitted | None = None
    """The broker's proof that it lets in exactly the registry's logins."""
    differed: list[str] = field(default_factory=list)
    """Logins for which the broker's list was another than the registry's before that."""
    revoked: list[str] = field(default_factory=list)
    """Scooters whose revocation was begun: their credential is gone now."""
    named: list[str] = field(default_factory=list)
    """Scooters and keys whose bundle was found under no name, and has its own now."""
    activated: list[str] = field(default_factory=list)
    """Registered ones whose bundle was found: active now."""
    put_out: list[Ended] = field(default_factory=list)
    """Scooters and keys that are out, which nothing proved: their sessions are ended now."""
    not_handed_over: list[str] = field(default_factory=list)
    """Registered ones with a secret of which no bundle was found: `rotate` them."""
    without_credential: list[str] = field(default_factory=list)
    """Registered ones that have none, or lost it: `rotate` gives them one."""

    @property
    def sentences(self) -> list[str]:
        """The same for a person."""
        named = {
            "the broker's list was not the registry's for": self.differed,
            "the revocation was finished of": self.revoked,
            "their bundles were found under no name, and have theirs now:": self.named,
            "active now, their bundles were found:": self.activated,
            "out, and proved to be now:": [each.client_id for each in self.put_out],
            "never handed over, as far as the bundles show; rotate:": self.not_handed_over,
            "without a credential; rotate gives one:": self.without_credential,
        }
        return [f"{what} {short(names)}" for what, names in named.items() if names]


async def reconcile(
    provisioning: Provisioning,
    *,
    by: str,
    places: Sequence[Place] = (),
    done: Reconciled | None = None,
) -> Reconciled:
    """Bring the broker to what the registry says, prove it, and finish what was begun.

    `places` are where bundles may be: what is registered and has its bundle there becomes active.
    Repeating it changes nothing more. Raises Unfinished when the broker is away; what was done by
    then is in `done`, if one is given.
    """
    registry = provisioning.registry
    done = done or Reconciled()
    with unfinished(_DOUBT, then=_AGAIN):
        failed: list[FleetError] = []
        async with registry.locked():
            done.revoked += await registry.begun_revocations()
            await registry.set_credentials(dict.fromkeys(done.revoked, None), by=by)
            done.differed += sorted(await provisioning.gate.differs())
            admitted = done.admitted = await provisioning.gate.admit(by=by)
            for place in places:
                try:
                    done.named += await name_left(registry, place)
                except NotNamed as error:
                    failed.append(cut_short(_ONLY_COPY, error, then=_AGAIN))
            await _activate(provisioning, places, done, by=by)
        failed += await _put_out(provisioning, "scooter", admitted, done, by=by)
        failed += await _put_out(provisioning, "key", admitted, done, by=by)
    raise_all(failed)
    return done


async def _activate(
    provisioning: Provisioning, places: Sequence[Place], done: Reconciled, *, by: str
) -> None:
    registry = provisioning.registry
    registered: dict[str, Scooter] = {
        each.scooter_id: each async for each in registry.find(standings=[Standing.REGISTERED])
    }
    if not registered:
        return
    logins = await registry.logins(list(registered))
    kept = {name for place in places for name in bundles_that_match(place, registered, logins)}
    if kept:
        generations = {name: registered[name].generation for name in kept}
        done.activated += sorted(await registry.activate(generations, by=by))
    for name in sorted(registered.keys() - kept):
        if registered[name].has_credential:
            done.not_handed_over.append(name)
        else:
            done.without_credential.append(name)


async def _put_out(
    provisioning: Provisioning, kind: Kind, admitted: Admitted, done: Reconciled, *, by: str
) -> list[FleetError]:
    """Why some of them are not proved to be out: one that came back holds up no other."""
    registry = provisioning.registry
    forget = provisioning.forget

    async def forget_retired(name: str) -> object:
        found = await registry.get(name)
        is_retired = found is not None and found.standing is Standing.RETIRED
        return await forget(name) if forget and is_retired else None

    failed: list[FleetError] = []
    outcomes = provisioning.gate.put_out(
        await registry.unproved(kind),
        doubt=lambda names: f"{short(names)}: that the broker keeps it out is not proved.",
        kind=kind,
        admitted=admitted,
        by=by,
        reason="reconcile",
        forget=forget_retired if kind == "scooter" else None,
    )
    async for each in outcomes:
        if isinstance(each, Out):
            done.put_out.append(each.ended)
        else:
            failed.append(each)
    return failed
