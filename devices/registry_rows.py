"""Rows of scooters: added, checked before they change, and read as types."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from devices import registry_queries as sql
from devices.access_audit import note
from devices.registry_errors import CredentialRaced, UnknownScooter
from devices.scooters import NewScooter, Scooter
from devices.standing import Standing, StandingError

ADDED: Final = "added"
EXISTS: Final = "exists"


async def add_scooters(
    connection: Any,  # noqa: ANN401 - asyncpg has no types
    scooters: list[NewScooter],
    *,
    by: str,
) -> dict[str, str]:
    """Add what can be added, with its audit; what became of each, as `Registry.add` says it."""
    columns = (
        [each.scooter_id for each in scooters],
        [each.printed for each in scooters],
        [each.vehicle_type for each in scooters],
        [" ".join(sorted(set(each.tags))) for each in scooters],
        [orjson.dumps(dict(each.metadata)).decode() for each in scooters],
    )
    added = {row[0] for row in await connection.fetch(sql.ADD, *columns)}
    details = {each: dict[str, object]() for each in sorted(added)}
    await note(connection, "add", details, kind="scooter", by=by)
    left = [each for each in scooters if each.scooter_id not in added]
    return dict.fromkeys(added, ADDED) | (await _in_the_way(connection, left) if left else {})


async def _in_the_way(
    connection: Any,  # noqa: ANN401 - asyncpg has no types
    scooters: list[NewScooter],
) -> dict[str, str]:
    rows = await connection.fetch(
        sql.IN_THE_WAY,
        [each.scooter_id.lower() for each in scooters],
        [each.printed for each in scooters],
    )
    by_id = {row["scooter_id"].lower(): row for row in rows}
    by_vehicle = {row["vehicle_id"]: row["scooter_id"] for row in rows}
    return {
        each.scooter_id: _why_not(each, by_id.get(each.scooter_id.lower()), by_vehicle)
        for each in scooters
    }


def _why_not(scooter: NewScooter, row: Any, by_vehicle: Mapping[str, str]) -> str:  # noqa: ANN401
    """Why it was not added, by the row that has its id whatever the case, if there is one."""
    if row is None:
        owner = by_vehicle.get(scooter.printed, "another scooter")
        return f"vehicle id {scooter.printed} is taken by {owner}"
    if row["scooter_id"] != scooter.scooter_id:
        return f"{row['scooter_id']} exists: ids that differ only in case are mistaken"
    if row["standing"] == Standing.RETIRED:
        return f"{scooter.scooter_id} is retired for ever: take another id"
    return EXISTS


async def give_credentials(
    connection: Any,  # noqa: ANN401 - asyncpg has no types
    hashes: Mapping[str, str | None],
    following: Mapping[str, int] | None,
    *,
    by: str,
) -> dict[str, int]:
    """What `Registry.set_credentials` does, and raises, for a chunk in order; the generations."""
    rows = {row["scooter_id"]: row for row in await connection.fetch(sql.LOCKED, list(hashes))}
    _check_credentials(hashes, rows, following)
    given = [each for each, hashed in hashes.items() if hashed is not None]
    again = [each for each in given if rows[each]["standing"] == Standing.ACTIVE]
    told = {each: {"from": Standing.ACTIVE} for each in again}
    await note(connection, Standing.REGISTERED, told, kind="scooter", by=by, reason="rotate")
    columns = (list(hashes), list(hashes.values()), again)
    changed = await connection.fetch(sql.SET_CREDENTIALS, *columns)
    generations: dict[str, int] = {row["scooter_id"]: row["generation"] for row in changed}
    taken = [each for each in hashes if hashes[each] is None]
    for action, ids in (("credential", given), ("no credential", taken)):
        details = {each: {"generation": generations[each]} for each in ids}
        await note(connection, action, details, kind="scooter", by=by)
    return generations


def _check_credentials(
    hashes: Mapping[str, str | None], rows: Mapping[str, Any], following: Mapping[str, int] | None
) -> None:
    if unknown := [each for each in hashes if each not in rows]:
        raise UnknownScooter(unknown)
    for each, row in rows.items():
        if row["standing"] == Standing.RETIRED and hashes[each] is not None:
            raise StandingError(each, Standing.RETIRED, "it gets no credential any more")
    raced = [
        each for each, row in rows.items() if following and row["generation"] != following[each]
    ]
    if raced:
        raise CredentialRaced(raced)


def scooter_of(row: Any) -> Scooter:  # noqa: ANN401 - asyncpg has no types
    """A row of one of the queries, as a type."""
    return Scooter(
        scooter_id=row["scooter_id"],
        vehicle_id=row["vehicle_id"],
        vehicle_type=row["vehicle_type"],
        tags=tuple(row["tags"]),
        metadata=orjson.loads(row["metadata"]),
        standing=Standing(row["standing"]),
        generation=row["generation"],
        has_credential=row["has_credential"],
        registered_at=row["registered_at"],
        standing_at=row["standing_at"],
        credential_at=row["credential_at"],
        firmware=row["firmware"],
    )
