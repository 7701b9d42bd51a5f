"""Issuing credentials: secret → bundle on the disk → hash committed → bundle under its name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from broker.accounts import new_secret, secret_hash, secret_matches
from devices.bundle import Bundle, BundleFacts, scooter_bundle
from devices.bundle_places import Place
from devices.registry import ADDED, Registry
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
    their names only after it: whatever ends this between leaves a scooter whose secret nobody has,
    never a bundle with a wrong secret. Raises NotKept, and then nothing was committed.
    """
    bundles = {
        scooter_id: scooter_bundle(facts, scooter_id, secret=new_secret(), generation=generation)
        for scooter_id, generation in generations.items()
    }
    committed: Collection[str] = ()
    try:
        if place is not None:
            place.prepare(list(bundles.values()))
        answers = await registry.add(register, by=by) if register else {}
        problems = {name: answer for name, answer in answers.items() if answer != ADDED}
        hashes = {
            name: secret_hash(bundle.secret)
            for name, bundle in bundles.items()
            if name not in problems
        }
        # The lock dies with its connection; then whoever was quicker has given a credential.
        following = {name: generations[name] - 1 for name in hashes}
        await registry.set_credentials(hashes, by=by, following=following)
        committed = hashes
    finally:
        if place is not None:
            place.keep(committed)
    return Issued({name: bundles[name] for name in committed}, problems)


def bundles_that_match(place: Place, names: Collection[str], logins: Mapping[str, str]) -> set[str]:
    """Those of `names` whose bundle is in `place` with just the secret that gets in."""
    return {
        name
        for name, secret in place.secrets(names).items()
        if name in logins and secret_matches(secret, logins[name])
    }
