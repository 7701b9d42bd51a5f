"""Issuing credentials: secret → bundle on the disk → hash committed → bundle under its name."""

from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from broker.accounts import new_secret, secret_hash, secret_matches
from broker.errors import FleetError
from devices.bundle import Bundle, BundleFacts, scooter_bundle
from devices.bundle_places import Place
from devices.refusals import cut_short, short, unfinished
from devices.registry import ADDED, Registry
from devices.registry_errors import POSTGRES
from devices.scooters import NewScooter


@dataclass(frozen=True, slots=True)
class Issued:
    """Bundles whose hash is committed; and for the others, why there is none, as a sentence."""

    bundles: Mapping[str, Bundle] = field(repr=False)
    problems: Mapping[str, str]


async def issue(
    registry: Registry,
    facts: BundleFacts,
    generations: Mapping[str, int],
    *,
    register: Sequence[NewScooter] = (),
    place: Place | None,
    by: str,
) -> Issued:
    """A new credential for each id, of the generation told; `register` are those not known yet.

    Under the registry's lock. The bundles are on the disk before anything is committed, and have
    their names only after it: whatever ends this between leaves a scooter whose secret is unnamed
    in `place`, never a bundle with a wrong secret. Raises NotKept and NotNamed, and then nothing
    was committed; Unfinished when something was, or may have been.
    """
    bundles = {
        scooter_id: scooter_bundle(facts, scooter_id, secret=new_secret(), generation=generation)
        for scooter_id, generation in generations.items()
    }
    async with prepared(registry, place, list(bundles.values())):
        answers = await registry.add(register, by=by) if register else {}
    problems = {name: answer for name, answer in answers.items() if answer != ADDED}
    hashes = {
        name: secret_hash(bundle.secret) for name, bundle in bundles.items() if name not in problems
    }
    # The lock dies with its connection; then whoever was quicker has given a credential.
    following = {name: generations[name] - 1 for name in hashes}
    await commit(
        registry.set_credentials(hashes, by=by, following=following),
        list(hashes),
        place,
        renew=f"scooter devices rotate {short(list(hashes))}",
    )
    return Issued({name: bundles[name] for name in hashes}, problems)


@asynccontextmanager
async def prepared(
    registry: Registry, place: Place | None, bundles: Sequence[Bundle]
) -> AsyncGenerator[None, None]:
    """Prepare these bundles; whatever fails inside commits no hash, so it removes them."""
    if place is None:
        yield
        return
    await name_left(registry, place, [bundle.username for bundle in bundles])
    try:
        place.prepare(bundles)
        yield
    except BaseException:
        place.keep(())
        raise


async def commit(
    committing: Awaitable[object], names: Sequence[str], place: Place | None, *, renew: str
) -> None:
    """Await what commits hashes, and give the bundles prepared for these names theirs.

    A bundle whose hash may be committed is not removed: nobody else has its secret. `renew` is the
    command that makes another one. Raises Unfinished.
    """
    doubt = f"Whether {short(names)} got a new secret is not known."
    if place is None:
        doubt, then = f"{doubt} It was not shown.", f"Then run `{renew}`."
    else:
        doubt = f"{doubt} If so, it is in {place.path}, and nowhere else."
        then = f"Then run `scooter devices reconcile --bundles {place.path}`."
    try:
        await committing
    except FleetError:
        if place is not None:
            place.keep(())
        raise
    except BaseException as error:
        if place is not None:
            place.leave()
        if isinstance(error, POSTGRES):
            raise cut_short(doubt, error, then=then) from error
        raise
    if place is not None:
        with unfinished(f"{short(names)}: the new secret counts, and the old one ends.", then=then):
            place.keep(names)


async def name_left(
    registry: Registry, place: Place, usernames: Collection[str] | None = None
) -> list[str]:
    """Give those unnamed bundles their names whose secrets are the registry's; which ones.

    Under the registry's lock. With `usernames` those that preparing these would replace. Raises
    NotNamed.
    """
    left = place.unnamed(usernames)
    if not left:
        return []
    hashes = await registry.hashes(list(left))
    current = [
        name
        for name, secret in left.items()
        if name in hashes and secret_matches(secret, hashes[name])
    ]
    if current:
        place.keep(current)
    return sorted(current)


def bundles_that_match(place: Place, names: Collection[str], logins: Mapping[str, str]) -> set[str]:
    """Those of `names` whose bundle is in `place` with just the secret that gets in."""
    return {
        name
        for name, secret in place.secrets(names).items()
        if name in logins and secret_matches(secret, logins[name])
    }
