"""Who gets in at the demo's broker: a simulated fleet and an operator, provisioned like any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devices.bundle import Bundle, BundleFacts, operator_bundle, scooter_bundle
from devices.bundle_places import FolderPlace
from devices.import_file import ImportRow
from devices.importing import Import
from devices.issuing import bundles_that_match, issue
from devices.keys import Keys
from devices.operators import ANY, Operators
from devices.provisioning import Provisioning
from devices.reconciling import reconcile
from devices.registry import Registry
from devices.scooters import NewScooter
from gateway.console.workshop import SettingsWorkshop
from gateway.settings import Settings

OPERATOR: Final = "demo"
OPERATOR_KEY: Final = "demo.laptop"
_TAG: Final = "demo"
_BY: Final = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The scooters that ride, each with a login of its own; and those that are kept out."""

    bundles: Sequence[Bundle] = field(repr=False)
    kept_out: Sequence[str]


async def provision(settings: Settings, ids: Sequence[str], folder: Path) -> Fleet:
    """Let these scooters and the operator in, each with a bundle in `folder`.

    Whoever got in before keeps the secret; whoever was suspended, revoked or retired stays out.
    Raises what `scooter devices import` raises when the disk or the broker fails.
    """
    workshop = SettingsWorkshop(settings)
    place = FolderPlace(folder)
    async with workshop.pool() as pool:
        registry, operators = Registry(pool), Operators(pool)
        broker, facts = workshop.broker(), workshop.facts()
        desk = Provisioning(registry=registry, broker=broker, facts=facts)
        keys = Keys(operators=operators, registry=registry, broker=broker, facts=facts)
        scooters = [NewScooter(each, tags=(_TAG,)) for each in ids]
        rows = [ImportRow(line, each.scooter_id, each) for line, each in enumerate(scooters, 1)]
        async for _ in Import(desk, rows, place=place, by=_BY):
            continue
        await _let_operator_in(operators, keys, registry, place)
        await _replace_lost(desk, ids, place)
        # Also what a demo that was killed, or a command beside it, left half-done.
        await reconcile(desk, by=_BY, places=[place])
        bundles = await _kept(registry, facts, place)
    _bring_up_to_date(bundles, place)
    return Fleet(
        bundles=[bundles[each] for each in ids if each in bundles],
        kept_out=[each for each in ids if each not in bundles],
    )


async def _let_operator_in(
    operators: Operators, keys: Keys, registry: Registry, place: FolderPlace
) -> None:
    """With rights to everything; unless somebody revoked the operator or the key."""
    operator = await operators.get(OPERATOR)
    if operator is not None and not operator.is_active:
        return
    found = {key.login: key for key in await operators.keys(OPERATOR)}
    if OPERATOR_KEY not in found:
        if operator is None:
            await operators.add(OPERATOR, by=_BY)
        await operators.grant(OPERATOR, [ANY], by=_BY)
        await keys.add_key(OPERATOR_KEY, by=_BY, place=place)
    elif found[OPERATOR_KEY].is_active:
        logins = await registry.logins([OPERATOR_KEY])
        if not bundles_that_match(place, [OPERATOR_KEY], logins):
            await keys.rotate_key(OPERATOR_KEY, by=_BY, place=place)


async def _replace_lost(desk: Provisioning, ids: Sequence[str], place: FolderPlace) -> None:
    """A new secret for each that may get in, and whose bundle somebody deleted or changed."""
    registry = desk.registry
    async with registry.locked():
        logins = await registry.logins(list(ids))
        lost = logins.keys() - bundles_that_match(place, ids, logins)
        if lost:
            found = registry.find(ids=sorted(lost))
            generations = {each.scooter_id: each.generation + 1 async for each in found}
            await issue(registry, desk.facts, generations, place=place, by=_BY)


async def _kept(registry: Registry, facts: BundleFacts, place: FolderPlace) -> dict[str, Bundle]:
    """Every bundle in the folder that gets in, as it would be written today."""
    names = [each.parent.name for each in place.path.glob("*/bundle.json")]
    matching = bundles_that_match(place, names, await registry.logins(names))
    found = registry.find(ids=sorted(matching)) if matching else None
    generations = {each.scooter_id: each.generation async for each in found} if found else {}
    return {
        name: scooter_bundle(facts, name, secret=secret, generation=generations[name])
        if name in generations
        else operator_bundle(facts, name, secret=secret)
        for name, secret in place.secrets(matching).items()
    }


def _bring_up_to_date(bundles: Mapping[str, Bundle], place: FolderPlace) -> None:
    """Ports may differ from the last run's; the secrets stay."""
    changed = [
        bundle
        for name, bundle in bundles.items()
        if (place.where(name) / "bundle.json").read_text() != bundle.json()
    ]
    place.prepare(changed)
    place.keep([bundle.username for bundle in changed])
