"""What the commands do that look into the registry of scooters: list, show, tag, export."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from devices.access_audit import Audit
from devices.console.exits import CommandFailed, Exit
from devices.console.output import (
    Form,
    as_text,
    json_text,
    print_json,
    print_json_line,
    print_rows,
    print_table,
    talk,
)
from devices.console.spans import counted, rfc3339
from devices.console.workshop import Lookup, Seen, Workshop
from devices.registry import Registry, Scooter, Standing, UnknownScooter

UNKNOWN: Final = "unknown"
"""The presence of a scooter that never said anything."""

_CHUNK: Final = 500
_COLUMNS: Final = (
    *("scooter_id", "vehicle_id", "vehicle_type", "tags", "metadata", "standing", "generation"),
    *("has_credential", "registered_at", "standing_at", "credential_at"),
    *("presence", "last_seen_at", "firmware"),
)
_BRIEF: Final = ("scooter_id", "standing", "presence", "last_seen_at", "firmware", "tags")
_EXPORTED: Final = ("scooter_id", "vehicle_id", "vehicle_type", "tags")
"""The fields of a row to import, but for its metadata."""


async def list_scooters(
    workshop: Workshop,
    form: Form,
    *,
    tags: Sequence[str],
    standings: Sequence[str],
    presences: Sequence[str],
) -> None:
    """Rows come in the order of ids; JSON and CSV as they are found."""
    async with workshop.pool() as pool, workshop.lookup(pool) as look:
        found = Registry(pool).find(tags=tags, standings=[Standing(each) for each in standings])
        rows = _rows(found, look, presences=presences, form=form)
        count = await print_rows(rows, form, columns=_COLUMNS, brief=_BRIEF)
    talk(counted(count, "scooter"))


async def _rows(
    found: AsyncIterator[Scooter], look: Lookup, *, presences: Sequence[str], form: Form
) -> AsyncIterator[dict[str, Any]]:
    async for chunk in _chunks(found):
        seen = await look([each.scooter_id for each in chunk])
        for each in chunk:
            row = _row(each, seen.get(each.scooter_id, Seen()))
            if not presences or row["presence"] in presences:
                yield row if form is Form.JSON else _flat(row)


async def show(workshop: Workshop, scooter_id: str, *, audits: int, as_json: bool) -> None:
    """Raises CommandFailed for a scooter that is not registered."""
    async with workshop.pool() as pool, workshop.lookup(pool) as look:
        registry = Registry(pool)
        scooter = await registry.get(scooter_id)
        if scooter is None:
            raise CommandFailed(
                f"no scooter {scooter_id} is registered: `scooter devices add {scooter_id}`",
                code=Exit.NOT_FOUND,
            )
        seen = (await look([scooter_id])).get(scooter_id, Seen())
        trail = await registry.audits(scooter_id, kind="scooter", at_most=audits)
    row = _row(scooter, seen)
    if as_json:
        print_json({**row, "audits": [asdict(each) for each in trail]})
        return
    print_table(("field", "value"), list(_flat(row).items()))
    if trail:
        talk(f"who changed its access, newest first, at most {audits}:")
        print_table(("at", "by", "action", "reason", "detail"), [_audit(each) for each in trail])


async def tag(
    workshop: Workshop,
    scooter_ids: Sequence[str],
    *,
    add: Sequence[str],
    remove: Sequence[str],
    by: str,
    as_json: bool,
) -> None:
    """Each scooter by itself; raises UnknownScooter when one is not registered, before any."""
    async with workshop.pool() as pool:
        registry = Registry(pool)
        known = {each.scooter_id async for each in registry.find(ids=scooter_ids)}
        if unknown := [each for each in scooter_ids if each not in known]:
            raise UnknownScooter(unknown)
        changed = [
            await registry.set_tags(each, add=add, remove=remove, by=by) for each in scooter_ids
        ]
    rows = [{"scooter_id": each.scooter_id, "tags": each.tags} for each in changed]
    if as_json:
        print_json(rows)
    else:
        print_table(("scooter_id", "tags"), [tuple(_flat(row).values()) for row in rows])


async def export(
    workshop: Workshop, form: Form, *, tags: Sequence[str], standings: Sequence[str]
) -> None:
    """What `import` reads; CSV, or one line of JSON each."""
    async with workshop.pool() as pool:
        registry, wanted = Registry(pool), [Standing(each) for each in standings]
        if form is Form.CSV:
            # A column for each name in anybody's metadata, so all are looked through before.
            found = registry.find(tags=tags, standings=wanted)
            names = sorted({f"metadata.{name}" async for each in found for name in each.metadata})
            columns = (*_EXPORTED, *names)
            found = registry.find(tags=tags, standings=wanted)
            count = await print_rows(_exported(found, columns), form, columns=columns, brief=())
        else:
            count = 0
            async for each in registry.find(tags=tags, standings=wanted):
                print_json_line(_import_row(each) | {"metadata": each.metadata})
                count += 1
    talk(counted(count, "scooter"))


async def _exported(
    found: AsyncIterator[Scooter], columns: Sequence[str]
) -> AsyncIterator[dict[str, Any]]:
    nothing = dict.fromkeys(columns)
    async for each in found:
        metadata = {f"metadata.{name}": _cell(value) for name, value in each.metadata.items()}
        yield nothing | _flat(_import_row(each)) | metadata


def _import_row(scooter: Scooter) -> dict[str, Any]:
    values = (scooter.scooter_id, scooter.vehicle_id, scooter.vehicle_type, scooter.tags)
    return dict(zip(_EXPORTED, values, strict=True))


async def _chunks(found: AsyncIterator[Scooter]) -> AsyncIterator[list[Scooter]]:
    chunk: list[Scooter] = []
    async for each in found:
        chunk.append(each)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _row(scooter: Scooter, seen: Seen) -> dict[str, Any]:
    return {
        "scooter_id": scooter.scooter_id,
        "vehicle_id": scooter.vehicle_id,
        "vehicle_type": scooter.vehicle_type,
        "tags": scooter.tags,
        "metadata": dict(scooter.metadata),
        "standing": str(scooter.standing),
        "generation": scooter.generation,
        "has_credential": scooter.has_credential,
        "registered_at": scooter.registered_at,
        "standing_at": scooter.standing_at,
        "credential_at": scooter.credential_at,
        "presence": seen.presence or UNKNOWN,
        "last_seen_at": seen.received_at,
        "firmware": seen.firmware or scooter.firmware,
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """For CSV and tables: tags with blanks between, metadata as JSON, nothing for none."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> object:
    match value:
        case tuple() | list():
            return " ".join(map(str, value))
        case Mapping():
            return json_text(value) if value else None
        case _:
            return value


def _audit(each: Audit) -> tuple[object, ...]:
    return (rfc3339(each.at), each.by, each.action, each.reason, as_text(_cell(each.detail)))
