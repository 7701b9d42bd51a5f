"""What an import does with each row, judged by what the registry and the place have already."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from devices.bundle_places import Place
from devices.import_file import ImportRow
from devices.issuing import bundles_that_match
from devices.refusals import why_known
from devices.registry import Registry
from devices.scooters import NewScooter, Scooter
from devices.standing import Standing

_CHUNK: Final = 1000


class RowOutcome(StrEnum):
    """What became of a row, or with a dry run would; refused and invalid ones failed."""

    ADDED = "added"
    MENDED = "mended"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's outcome; `field` and `detail` say what is wrong, or was."""

    line: int
    scooter_id: str
    outcome: RowOutcome
    field: str = ""
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome in {RowOutcome.REFUSED, RowOutcome.INVALID}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done for a row; generation 0: no credential of ours comes of it."""

    outcome: RowOutcome
    detail: str = ""
    generation: int = 0
    issues: bool = False


async def judge(registry: Registry, ids: Sequence[str], place: Place | None) -> dict[str, Verdict]:
    """What is to be done for each of these ids."""
    if not ids:
        return {}
    known = {each.scooter_id: each async for each in registry.find(ids=ids)}
    half_done = [name for name, each in known.items() if each.standing is Standing.REGISTERED]
    kept: set[str] = set()
    if half_done and place is not None:
        kept = bundles_that_match(place, half_done, await registry.logins(half_done))
    return {name: _verdict(known.get(name), has_bundle=name in kept) for name in ids}


def result_of(
    row: ImportRow, verdicts: Mapping[str, Verdict], problems: Mapping[str, str]
) -> RowResult:
    """One row's result; `problems` are the registry's."""
    if row.scooter is None:
        first = row.problems[0]
        detail = "; ".join(each.reason for each in row.problems)
        return RowResult(row.line, row.scooter_id, RowOutcome.INVALID, first.field, detail)
    verdict = verdicts[row.scooter_id]
    if problem := problems.get(row.scooter_id):
        return RowResult(row.line, row.scooter_id, RowOutcome.REFUSED, detail=problem)
    return RowResult(row.line, row.scooter_id, verdict.outcome, detail=verdict.detail)


async def foretell(
    registry: Registry, rows: Sequence[ImportRow], *, place: Place | None = None
) -> AsyncIterator[RowResult]:
    """A dry run: what an import of these rows would do now, and nothing is changed."""
    taken = await _taken(registry)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        wanted = {row.scooter_id: row.scooter for row in chunk if row.scooter}
        verdicts = await judge(registry, list(wanted), place)
        problems = {
            name: problem
            for name, scooter in wanted.items()
            if verdicts[name].outcome is RowOutcome.ADDED
            and (problem := _in_the_way(scooter, taken))
        }
        for row in chunk:
            yield result_of(row, verdicts, problems)


def _verdict(known: Scooter | None, *, has_bundle: bool) -> Verdict:
    if known is None:
        return Verdict(RowOutcome.ADDED, generation=1, issues=True)
    match known.standing:
        case Standing.ACTIVE:
            return Verdict(RowOutcome.UNCHANGED, "it is active already")
        case Standing.REGISTERED if has_bundle:
            return Verdict(
                RowOutcome.MENDED, "its bundle was there already", generation=known.generation
            )
        case Standing.REGISTERED:
            return Verdict(
                RowOutcome.MENDED,
                "it was registered, and gets a new secret",
                generation=known.generation + 1,
                issues=True,
            )
    return Verdict(RowOutcome.REFUSED, why_known(known) or "")


async def _taken(registry: Registry) -> dict[str, str]:
    """Who has an id, in lower case, or a vehicle id, which begins with a space here."""
    taken = {}
    async for each in registry.find():
        taken[each.scooter_id.lower()] = each.scooter_id
        taken[f" {each.vehicle_id}"] = each.scooter_id
    return taken


def _in_the_way(scooter: NewScooter, taken: Mapping[str, str]) -> str | None:
    if other := taken.get(scooter.scooter_id.lower()):
        return f"{other} exists: ids that differ only in case are mistaken"
    if owner := taken.get(f" {scooter.printed}"):
        return f"vehicle id {scooter.printed} is taken by {owner}"
    return None
