"""Provisioning: register → credential → admit at the broker → hand over once; and its undoing."""

from collections.abc import AsyncGenerator, Sequence

from broker.admission import Broker
from broker.errors import FleetError
from devices.bundle import Bundle, BundleFacts
from devices.bundle_places import Place
from devices.change import Change
from devices.ending import RETIRE, REVOKE, SUSPEND, Ending, end_access
from devices.gate import Forget, Gate
from devices.issuing import bundles_that_match, issue, name_left
from devices.refusals import Refused, unfinished, why_known
from devices.registry import Registry, UnknownScooter
from devices.scooters import NewScooter, Scooter
from devices.standing import Standing, StandingError


class Provisioning:
    """The verbs. Each writes who did it (`by`) into the audit, and may be repeated.

    Every one raises Refused, StandingError or UnknownScooter before anything is changed, and
    Unfinished when something was and the rest failed: it says what, and how to go on. They take
    turns, also with those of other processes. `forget` removes what is known of a retired scooter:
    Redis keys, its status.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        broker: Broker,
        facts: BundleFacts,
        forget: Forget | None = None,
    ) -> None:
        self.registry = registry
        self.gate = Gate(registry, broker)
        self.facts = facts
        self.forget = forget

    async def add(self, scooter: NewScooter, *, by: str, place: Place | None = None) -> Change:
        """Register a scooter and let it in.

        With a `place` its bundle is kept there and it is active; without, `Change.bundle` is to be
        printed, and it stays registered until `handed_over`. One that was left half-done by
        an earlier try is finished. Raises Refused for a known id, NotKept or NotNamed when nothing
        could be written: then nothing is registered either.
        """
        if scooter.problem:
            raise Refused(scooter.problem)
        async with self.registry.locked():
            found = await self.registry.get(scooter.scooter_id)
            if found is not None and await self._is_half_done(found, place):
                return await self._let_in(found.scooter_id, None, by=by, place=place)
            if found is not None and (reason := why_known(found)):
                raise Refused(reason)
            register = [] if found else [scooter]
            bundle = await self._issue(scooter.scooter_id, 1, register, by=by, place=place)
            return await self._let_in(scooter.scooter_id, bundle, by=by, place=place)

    async def handed_over(self, change: Change, *, by: str) -> Scooter:
        """The printed secret has reached somebody: from registered to active.

        Raises Refused when the scooter got another secret meanwhile.
        """
        told = change.scooter
        await self.registry.activate({told.scooter_id: told.generation}, by=by)
        now = await self._known(told.scooter_id)
        if now.generation != told.generation or not now.has_credential:
            raise Refused(
                f"{now.scooter_id} got another secret meanwhile, or lost it: the one that was "
                "printed does not work."
            )
        return now

    async def rotate(self, scooter_id: str, *, by: str, place: Place | None = None) -> Change:
        """A new secret: the old one ends now, and the live session with it.

        The broker knows one hash a login, so there is no time in which both work. Like `add`:
        without a `place`, print `Change.bundle`, then call `handed_over`. A suspended scooter gets
        a new secret and stays suspended.
        """
        async with self.registry.locked():
            found = await self._known(scooter_id)
            if found.standing is Standing.RETIRED:
                raise StandingError(scooter_id, found.standing, "it gets no credential any more")
            bundle = await self._issue(scooter_id, found.generation + 1, [], by=by, place=place)
            return await self._let_in(scooter_id, bundle, by=by, place=place, ends=True)

    async def suspend(self, scooter_id: str, *, by: str, reason: str | None = None) -> Change:
        """Keep it out for now: its credential stays, and `resume` lets the same one in again."""
        return await self._end(scooter_id, SUSPEND, by=by, reason=reason)

    async def resume(self, scooter_id: str, *, by: str, reason: str | None = None) -> Change:
        """Let a suspended scooter in again, as what it was; repeating it changes nothing.

        One whose credential was revoked becomes registered and needs `rotate` to get in: look at
        `Change.scooter.has_credential`.
        """
        async with self.registry.locked():
            found = await self._known(scooter_id)
            before = Standing.REGISTERED
            if found.has_credential:
                before = await self._before_suspension(scooter_id)
            if found.standing not in {Standing.REGISTERED, Standing.ACTIVE}:
                await self.registry.set_standing(scooter_id, before, by=by, reason=reason)
            with unfinished(f"{scooter_id} is {before} again, but may not get in yet."):
                admitted = await self.gate.admit(by=by)
                return Change(scooter=await self._known(scooter_id), admitted=admitted)

    async def revoke(self, scooter_id: str, *, by: str, reason: str | None = None) -> Change:
        """Remove its credential for good and suspend it: only `rotate` and `resume` undo that."""
        return await self._end(scooter_id, REVOKE, by=by, reason=reason)

    async def retire(self, scooter_id: str, *, by: str, reason: str | None = None) -> Change:
        """End of life: out for ever, without a credential, and what is known live forgotten."""
        return await self._end(scooter_id, RETIRE, by=by, reason=reason)

    def end_access(
        self, scooter_ids: Sequence[str], ending: Ending, *, by: str, reason: str | None = None
    ) -> AsyncGenerator[Change | FleetError, None]:
        """Suspend, revoke or retire many: see `ending.end_access`."""
        return end_access(
            self.registry,
            self.gate,
            scooter_ids,
            ending,
            by=by,
            reason=reason,
            forget=self.forget,
        )

    async def _end(self, scooter_id: str, ending: Ending, *, by: str, reason: str | None) -> Change:
        outcomes = self.end_access([scooter_id], ending, by=by, reason=reason)
        (outcome,) = [each async for each in outcomes]
        if isinstance(outcome, FleetError):
            raise outcome
        return outcome

    async def _known(self, scooter_id: str) -> Scooter:
        found = await self.registry.get(scooter_id)
        if found is None:
            raise UnknownScooter([scooter_id])
        return found

    async def _is_half_done(self, found: Scooter, place: Place | None) -> bool:
        """Whether its bundle is in `place` already, and only the end of `add` is missing."""
        if place is None or found.standing is not Standing.REGISTERED:
            return False
        await name_left(self.registry, place, [found.scooter_id])
        logins = await self.registry.logins([found.scooter_id])
        return bool(bundles_that_match(place, [found.scooter_id], logins))

    async def _issue(
        self,
        scooter_id: str,
        generation: int,
        register: Sequence[NewScooter],
        *,
        by: str,
        place: Place | None,
    ) -> Bundle:
        issued = await issue(
            self.registry,
            self.facts,
            {scooter_id: generation},
            register=register,
            place=place,
            by=by,
        )
        if problem := issued.problems.get(scooter_id):
            raise Refused(problem)
        return issued.bundles[scooter_id]

    async def _let_in(
        self,
        scooter_id: str,
        bundle: Bundle | None,
        *,
        by: str,
        place: Place | None,
        ends: bool = False,
    ) -> Change:
        """Admit at the broker; then it is active, if its bundle is in a place."""
        done, then = _what_if_away(scooter_id, place)
        ended = None
        with unfinished(done, then=then):
            issued = await self._known(scooter_id)
            admitted = await self.gate.admit(by=by)
            if ends:
                ended = await self.gate.end_session(scooter_id)
            if place is not None:
                await self.registry.activate({scooter_id: issued.generation}, by=by)
            return Change(
                scooter=await self._known(scooter_id),
                bundle=bundle if place is None else None,
                bundle_at=place.where(scooter_id) if place is not None else None,
                admitted=admitted,
                ended=ended,
            )

    async def _before_suspension(self, scooter_id: str) -> Standing:
        for audit in await self.registry.audits(scooter_id, kind="scooter"):
            if audit.action == Standing.SUSPENDED:
                return Standing(audit.detail["from"])
        return Standing.ACTIVE


def _what_if_away(scooter_id: str, place: Place | None) -> tuple[str, str]:
    if place is None:
        return (
            f"{scooter_id} is registered, but its new secret was not shown.",
            f"Then run `scooter devices rotate {scooter_id}`.",
        )
    where = place.where(scooter_id)
    return (
        f"{scooter_id} is registered and its bundle is in {where}, but it does not get in yet.",
        f"Then run `scooter devices reconcile --bundles {place.path}`.",
    )
