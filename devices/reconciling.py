"""Reconciling: finishes what was interrupted, and says what only a person can."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.admission import Admitted, Ended
from devices.access_audit import Audit, Kind
from devices.bundle_places import Place
from devices.issuing import bundles_that_match
from devices.provisioning import REVOKE, Provisioning
from devices.refusals import unfinished
from devices.scooters import Scooter
from devices.standing import Standing

_NAMED: Final = 10
_AT_ONCE: Final = 20
"""Each holds a client id for a moment, on a connection of its own."""


@dataclass(slots=True)
class Reconciled:
    """What was found, and done; every list is empty when all was in order."""

    admitted: Admitted | None = None
    """The broker's proof that it lets in exactly the registry's logins."""
    differed: list[str] = field(default_factory=list)
    """Logins for which the broker's list was another than the registry's before that."""
    revoked: list[str] = field(default_factory=list)
    """Scooters whose revocation was begun: their credential is gone now."""
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
            "active now, their bundles were found:": self.activated,
            "out, and proved to be now:": [each.client_id for each in self.put_out],
            "never handed over, as far as the bundles show; rotate:": self.not_handed_over,
            "without a credential; rotate gives one:": self.without_credential,
        }
        return [f"{what} {_short(names)}" for what, names in named.items() if names]


def _short(names: Sequence[str]) -> str:
    """A fleet does not fit on a screen: the lists have all of them."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


async def reconcile(
    provisioning: Provisioning, *, by: str, places: Sequence[Place] = ()
) -> Reconciled:
    """Bring the broker to what the registry says, prove it, and finish what was begun.

    `places` are where bundles may be: what is registered and has its bundle there becomes active.
    Repeating it changes nothing more. Raises Unfinished when the broker is away.
    """
    registry = provisioning.registry
    done = Reconciled()
    with unfinished(
        "The registry is in order; that the broker follows it is not proved.",
        then="Then run `scooter devices reconcile` again.",
    ):
        async with registry.locked():
            await _finish_revocations(provisioning, done, by=by)
            done.differed += sorted(await provisioning.gate.differs())
            admitted = done.admitted = await provisioning.gate.admit(by=by)
            await _activate(provisioning, places, done, by=by)
        for kind in ("scooter", "key"):
            await _put_out(provisioning, kind, admitted, done, by=by)
    return done


async def _finish_revocations(provisioning: Provisioning, done: Reconciled, *, by: str) -> None:
    registry = provisioning.registry
    suspended = [
        each.scooter_id
        async for each in registry.find(standings=[Standing.SUSPENDED])
        if each.has_credential
    ]
    done.revoked += [
        name for name in suspended if _was_revoked(await registry.audits(name, kind="scooter"))
    ]
    if done.revoked:
        await registry.set_credentials(dict.fromkeys(done.revoked, None), by=by)


def _was_revoked(audits: Sequence[Audit]) -> bool:
    """Whether the last thing that was meant for it, newest first, is to lose its credential."""
    for audit in audits:
        if audit.action == REVOKE:
            return True
        if audit.action == Standing.SUSPENDED:
            return (audit.reason or "").startswith(REVOKE)
        if audit.action in {"credential", Standing.ACTIVE, Standing.REGISTERED}:
            return False
    return False


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
) -> None:
    async def put_out(name: str) -> Ended:
        found = await provisioning.registry.get(name) if kind == "scooter" else None
        is_retired = found is not None and found.standing is Standing.RETIRED
        ended, _ = await provisioning.gate.put_out(
            name,
            kind=kind,
            admitted=admitted,
            by=by,
            reason="reconcile",
            forget=provisioning.forget if is_retired else None,
        )
        return ended

    names = await provisioning.registry.unproved(kind)
    for start in range(0, len(names), _AT_ONCE):
        outcomes = await asyncio.gather(
            *map(put_out, names[start : start + _AT_ONCE]), return_exceptions=True
        )
        done.put_out += [each for each in outcomes if isinstance(each, Ended)]
        if failed := [each for each in outcomes if isinstance(each, BaseException)]:
            raise failed[0]
