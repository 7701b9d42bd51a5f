"""Operators' keys: a named login each, made, replaced and ended like a scooter's credential."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.accounts import new_secret, secret_hash
from broker.admission import Admitted, Broker, Ended
from broker.errors import FleetError
from devices.bundle import Bundle, BundleFacts, operator_bundle
from devices.bundle_places import Place
from devices.gate import Gate, Out
from devices.issuing import commit, prepared
from devices.operators import Operators, parse_login
from devices.refusals import Refused, raise_all, short, unfinished
from devices.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """What a verb did to an operator's keys, and its evidence."""

    logins: tuple[str, ...]
    """The keys it was about."""
    bundle: Bundle | None = field(default=None, repr=False)
    """To print, once, where no place was given."""
    bundle_at: Path | None = None
    """Where the bundle is, where a place was given."""
    admitted: Admitted | None = None
    ended: tuple[Ended, ...] = ()
    """The live sessions that were taken over, and what was seen then."""


class Keys:
    """The verbs for keys. Each writes who did it (`by`) into the audit.

    They raise OperatorError, UnknownOperator or Refused before anything is changed, and Unfinished
    when something was and the rest failed: it says what, and how to go on.
    """

    def __init__(
        self, *, operators: Operators, registry: Registry, broker: Broker, facts: BundleFacts
    ) -> None:
        self._operators = operators
        self._registry = registry
        self._gate = Gate(registry, broker)
        self._facts = facts

    async def add_key(self, login: str, *, by: str, place: Place | None = None) -> KeyChange:
        """A new key such as `alice.laptop`; without a `place`, print `KeyChange.bundle`.

        Its operator must be there, and must have no active key of that name.
        """
        return await self._issue(login, by=by, place=place, is_new=True)

    async def rotate_key(self, login: str, *, by: str, place: Place | None = None) -> KeyChange:
        """A new secret for an active key; the old one ends now, and the live session with it."""
        return await self._issue(login, by=by, place=place, is_new=False)

    async def revoke_key(self, login: str, *, by: str, reason: str | None = None) -> KeyChange:
        """End one key and its live session; repeating it proves it again."""
        await self._operators.revoke_key(login, by=by, reason=reason)
        return await self._put_out([login], by=by, reason=reason)

    async def revoke_operator(
        self, operator: str, *, by: str, reason: str | None = None
    ) -> KeyChange:
        """End an operator with all rights, keys and live sessions; repeating proves it again."""
        await self._operators.revoke(operator, by=by, reason=reason)
        logins = [key.login for key in await self._operators.keys(operator)]
        return await self._put_out(logins, by=by, reason=reason)

    async def _issue(self, login: str, *, by: str, place: Place | None, is_new: bool) -> KeyChange:
        if parse_login(login) is None:
            raise Refused(f"{login!r} is no key: an operator, a dot and a name, alice.laptop")
        bundle = operator_bundle(self._facts, login, secret=new_secret())
        record = self._operators.add_key if is_new else self._operators.rotate_key
        async with self._registry.locked():
            async with prepared(self._registry, place, [bundle]):
                hashed = secret_hash(bundle.secret)
            recording = record(login, hashed, by=by)
            renew = f"scooter operators key rotate {login}"
            await commit(recording, [login], place, renew=renew)
            done, then = _what_if_away(login, place)
            with unfinished(done, then=then):
                admitted = await self._gate.admit(by=by)
                ended = () if is_new else (await self._gate.end_session(login),)
        return KeyChange(
            logins=(login,),
            bundle=bundle if place is None else None,
            bundle_at=place.where(login) if place is not None else None,
            admitted=admitted,
            ended=ended,
        )

    async def _put_out(self, logins: list[str], *, by: str, reason: str | None) -> KeyChange:
        with unfinished(_doubt(logins)):
            async with self._registry.locked():
                back = await self._registry.logins(logins)
                admitted = await self._gate.admit(by=by)
        if back:
            raise Refused(f"{short(list(back))}: made again meanwhile, by another command.")
        outcomes = self._gate.put_out(
            logins, doubt=_doubt, kind="key", admitted=admitted, by=by, reason=reason
        )
        found = [each async for each in outcomes]
        raise_all([each for each in found if isinstance(each, FleetError)])
        ended = tuple(each.ended for each in found if isinstance(each, Out))
        return KeyChange(logins=tuple(logins), admitted=admitted, ended=ended)


def _doubt(logins: Sequence[str]) -> str:
    return (
        f"{short(logins) or 'No key of this operator'}: out of the registry, and the gateway "
        "refuses what it asks; but it is not proved that the broker keeps it out."
    )


def _what_if_away(login: str, place: Place | None) -> tuple[str, str]:
    if place is None:
        return (
            f"{login} has a new secret, but it was not shown.",
            f"Then run `scooter operators key rotate {login}`.",
        )
    return (
        f"The bundle of {login} is in {place.where(login)}, but it does not get in yet.",
        "Then run `scooter devices reconcile`.",
    )
