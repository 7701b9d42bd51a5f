"""Reading the registry in Postgres: all of it, or what changed since an earlier reading."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import asyncpg

from devices.standing import Standing
from gateway.storage.postgres import transaction

CHANNEL: Final = "registry"
"""Where each statement that changes the registry tells so, at its commit."""

WHOLE: Final = "whole"
"""The payload that says: rows are gone, so read everything."""

_PAGE: Final = 2000
_ALIKE_MAX: Final = 10_000
"""Beyond so many kinds of scooters hardly two are alike, and tags that are gone would stay."""

# Snapshots of one server in the order in which they were taken: neither end ever falls, and
# between equal ends transactions only end. Digits alone, of one length, compare in any locale.
_SNAPSHOT = """
    SELECT pg_snapshot_xmin(s)::text AS xmin,
        lpad(pg_snapshot_xmax(s)::text, 20, '0') || lpad(pg_snapshot_xmin(s)::text, 20, '0')
        || lpad((99999999 - (SELECT count(*) FROM pg_snapshot_xip(s)))::text, 8, '0') AS stamp
    FROM pg_current_snapshot() AS s
"""
_ALL = "SELECT scooter_id, standing, generation, tags FROM scooters"
# What ran while the earlier snapshot was taken has an id from its xmin on, whenever it commits.
# Ids beyond our own snapshot are those of the server that a backup came from.
_CHANGED = f"""{_ALL}
    WHERE changed_in >= $1::text::xid8 AND changed_in < pg_snapshot_xmax(pg_current_snapshot())
"""
_KEYS = """
    SELECT login, operator FROM operator_keys JOIN operators USING (operator)
    WHERE operators.standing = 'active' AND operator_keys.standing = 'active'
"""
_RIGHTS = "SELECT operator, command, tag FROM operator_rights"


class Known(NamedTuple):
    """What the gateway needs of a scooter; equal ones are one object."""

    standing: Standing
    generation: int
    tags: frozenset[str]


class Rights(NamedTuple):
    """The operator of each active key, and the commands and tags of each operator."""

    keys: Mapping[str, str]
    granted: Mapping[str, frozenset[tuple[str, str]]]


@dataclass(slots=True)
class Interned:
    """One object for all scooters that are alike: memory for 100,000 of them."""

    _known: dict[tuple[str, int, tuple[str, ...]], Known] = field(default_factory=dict)

    def known(self, standing: str, generation: int, tags: tuple[str, ...]) -> Known:
        key = (standing, generation, tags)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _ALIKE_MAX:
                self._known.clear()
            found = self._known[key] = Known(Standing(standing), generation, frozenset(tags))
        return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What one snapshot of Postgres says; `stamp` grows from one to the next.

    It was taken after `began_at` of the monotonic clock.
    `scooters` are all of them if `is_whole`, else those that may have changed since.
    """

    stamp: str
    xmin: str
    began_at: float
    is_whole: bool
    scooters: dict[str, Known]
    rights: Rights


async def read_registry(
    connection: asyncpg.Connection, interned: Interned, *, since: Reading | None
) -> Reading:
    """Read what may have changed since an earlier reading, or everything, in one snapshot.

    Raises what the driver raises. Everything is read too when Postgres went back in time: it
    is another server, or was restored.
    """
    began_at = time.monotonic()
    async with transaction(connection, isolation="repeatable_read", readonly=True):
        snapshot = await connection.fetchrow(_SNAPSHOT)
        if since is not None and snapshot["stamp"] < since.stamp:
            since = None
        question = (_ALL,) if since is None else (_CHANGED, since.xmin)
        return Reading(
            stamp=snapshot["stamp"],
            xmin=snapshot["xmin"],
            began_at=began_at,
            is_whole=since is None,
            scooters=await _scooters(connection, interned, question),
            rights=await _rights(connection),
        )


async def _scooters(
    connection: asyncpg.Connection, interned: Interned, question: tuple[str, ...]
) -> dict[str, Known]:
    """In pages, so that neither the event loop nor the memory notices a large fleet."""
    found: dict[str, Known] = {}
    cursor: Any = await connection.cursor(*question)
    while rows := await cursor.fetch(_PAGE):
        for scooter_id, standing, generation, tags in rows:
            found[scooter_id] = interned.known(standing, generation, tuple(tags))
    return found


async def _rights(connection: asyncpg.Connection) -> Rights:
    keys = dict(await connection.fetch(_KEYS))
    granted: dict[str, set[tuple[str, str]]] = {}
    for operator, command, tag in await connection.fetch(_RIGHTS):
        granted.setdefault(operator, set()).add((command, tag))
    return Rights(keys, {operator: frozenset(rights) for operator, rights in granted.items()})
