"""What the commands do that make scooters known: add, import; and reconcile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

from broker.admission import Admitted
from devices.bundle_lines import place_for_many
from devices.bundle_places import Place, place_for
from devices.change import Change
from devices.console.access import hand_over, provisioning
from devices.console.exits import CommandFailed, Exit
from devices.console.handing import evidence, in_turn, say_admitted, tell_each
from devices.console.output import print_json, print_table, talk, write
from devices.console.progress import progress
from devices.console.workshop import Workshop
from devices.import_file import read_import
from devices.import_verdicts import RowOutcome, RowResult, foretell
from devices.importing import Import
from devices.reconciling import Reconciled
from devices.reconciling import reconcile as finish
from devices.registry import Registry
from devices.scooters import NewScooter

_QUIET: Final = {RowOutcome.ADDED, RowOutcome.MENDED, RowOutcome.UNCHANGED}
"""Rows that went as they should are counted, and named in JSON only."""


async def add(
    workshop: Workshop, scooters: Sequence[NewScooter], *, out: Path | None, by: str, as_json: bool
) -> None:
    """Raises what is refused of them together, after the others are added."""
    place = place_for(out) if out else None
    async with provisioning(workshop, makes_bundles=True) as desk:

        async def change(scooter: NewScooter) -> Change:
            return await desk.add(scooter, by=by, place=place)

        tell = hand_over(desk, by=by, as_json=as_json)
        await tell_each("adding", len(scooters), in_turn(scooters, change), tell)


async def import_file(workshop: Workshop, file: Path, *, out: Path, by: str, as_json: bool) -> None:
    """Raises CommandFailed when a row was not imported; what was is told in any case."""
    rows = read_import(file)
    results: list[RowResult] = []
    async with provisioning(workshop, makes_bundles=True) as desk:
        with place_for_many(out) as place:
            task = Import(desk, rows, place=place, by=by)
            try:
                await _follow(aiter(task), results, len(rows))
            except asyncio.CancelledError:
                talk(
                    f"interrupted after {len(results)} of {len(rows)} rows: run the same command "
                    "again to go on, what is done stays"
                )
                raise
            finally:
                _print_results(results, as_json=as_json, out=out, admitted=task.admitted)
    _check(results, "were not")


async def foretell_import(
    workshop: Workshop, file: Path, *, out: Path | None, as_json: bool
) -> None:
    """A dry run; raises CommandFailed when a row would not be imported."""
    rows = read_import(file)
    results: list[RowResult] = []
    async with workshop.pool() as pool:
        with ExitStack() as stack:
            place = _bundles_in(out, stack) if out else None
            await _follow(foretell(Registry(pool), rows, place=place), results, len(rows))
    _print_results(results, as_json=as_json, dry_run=True)
    _check(results, "would not be")


async def _follow(found: AsyncIterator[RowResult], results: list[RowResult], total: int) -> None:
    with progress("importing", total) as advance:
        async for result in found:
            results.append(result)
            advance(len(results))


def _check(results: Sequence[RowResult], what: str) -> None:
    if failed := sum(result.failed for result in results):
        raise CommandFailed(f"{failed} of {len(results)} rows {what} imported")


def _print_results(
    results: Sequence[RowResult],
    *,
    as_json: bool,
    dry_run: bool = False,
    out: Path | None = None,
    admitted: Admitted | None = None,
) -> None:
    counts = Counter(result.outcome for result in results)
    if as_json:
        document = {
            "dry_run": dry_run,
            "counts": {str(outcome): counts[outcome] for outcome in RowOutcome},
            "bundles": None if out is None else str(out),
            "admitted": evidence(admitted),
            "rows": [asdict(result) for result in results],
        }
        print_json(document)
    elif told := [each for each in results if each.outcome not in _QUIET]:
        print_table(
            ("line", "scooter_id", "outcome", "field", "detail"),
            [(each.line, each.scooter_id, *_why(each)) for each in told],
        )
    write("", at_once=True)
    if admitted is not None:
        talk(say_admitted(admitted))
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in RowOutcome if counts[outcome])
    where = f"; the bundles are in {out}" if out and counts else ""
    talk(f"{'would be: ' if dry_run else ''}{said or 'no row was reached'}{where}")


def _why(result: RowResult) -> tuple[str, ...]:
    return (str(result.outcome), result.field, result.detail)


async def reconcile(workshop: Workshop, *, bundles: Sequence[Path], by: str, as_json: bool) -> None:
    """Raises Unfinished when the broker is away; what was done by then is told."""
    done = Reconciled()
    try:
        async with provisioning(workshop, makes_bundles=False) as desk:
            with ExitStack() as stack:
                places = [_bundles_in(each, stack) or _nothing_in(each) for each in bundles]
                await finish(desk, by=by, places=places, done=done)
    finally:
        _print_reconciled(done, as_json=as_json)


def _print_reconciled(done: Reconciled, *, as_json: bool) -> None:
    if as_json:
        lists = (
            *("differed", "revoked", "named", "activated"),
            *("not_handed_over", "without_credential"),
        )
        print_json(
            {
                "admitted": evidence(done.admitted),
                **{name: getattr(done, name) for name in lists},
                "put_out": [evidence(each) for each in done.put_out],
            }
        )
        return
    if done.admitted is not None:
        talk(say_admitted(done.admitted))
    for sentence in done.sentences:
        write(f"{sentence}\n")
    if done == Reconciled(admitted=done.admitted) and done.admitted is not None:
        write("nothing was left to finish\n")


def _bundles_in(path: Path, stack: ExitStack) -> Place | None:
    """None when nothing is there: to look into a file of bundles would make it."""
    if path.suffix == ".json":
        place = place_for(path)
        return place if path.exists() or place.unnamed() else None
    if not path.exists():
        return None
    return stack.enter_context(place_for_many(path))


def _nothing_in(path: Path) -> NoReturn:
    raise CommandFailed(f"there are no bundles: {path} does not exist", code=Exit.USAGE)
