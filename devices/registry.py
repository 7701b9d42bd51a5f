"""Which scooters exist, and in what standing: the truth, in Postgres."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

from devices import access_audit
from devices import registry_queries as sql
from devices.access_audit import Audit, Kind, note
from devices.registry_errors import (
    POSTGRES,
    CredentialRaced,
    RegistryBusy,
    TagsError,
    UnknownScooter,
)
from devices.registry_rows import ADDED, EXISTS, add_scooters, give_credentials, scooter_of
from devices.scooters import RESERVED, VEHICLE_TYPES, NewScooter, Scooter, tags_problem
from devices.standing import HEARD, NEXT, Standing, StandingError, move

__all__ = [
    "ADDED",
    "EXISTS",
    "HEARD",
    "NEXT",
    "RESERVED",
    "VEHICLE_TYPES",
    "Audit",
    "CredentialRaced",
    "NewScooter",
    "Registry",
    "RegistryBusy",
    "Scooter",
    "Standing",
    "StandingError",
    "TagsError",
    "UnknownScooter",
]

_CHUNK: Final = 1000
_LOCK: Final = 0x5C00ACCE
"""The advisory lock of whoever renders the broker's files: a number nothing else here uses."""

_UNLOCK: Final = "SELECT pg_advisory_unlock($1)"
_IMPORT_LOCK: Final = 0x5C00ACCF
"""The advisory lock of whoever imports."""

_LOCK_POLL_S: Final = 0.1


class Registry:
    """The scooters in Postgres. Methods raise what the driver raises when it is away.

    Each change and its audit are one transaction, and so is each chunk of 1,000.
    """

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - an asyncpg.Pool; it has no types
        self._pool = pool

    async def add(self, scooters: Sequence[NewScooter], *, by: str) -> dict[str, str]:
        """Make scooters known; what became of each: `added`, `exists`, or a problem sentence.

        Rows that exist are left as they are; a retired id is a problem, since it never comes
        back. Of two with one id the first counts.
        """
        results: dict[str, str] = {}
        wanted: dict[str, NewScooter] = {}
        for scooter in scooters:
            problem = scooter.problem
            if problem is None:
                wanted.setdefault(scooter.scooter_id, scooter)
            results.setdefault(scooter.scooter_id, problem or "")
        # In one order, so that two imports of the same file wait for each other, never in a ring.
        for chunk in _chunks(sorted(wanted)):
            async with self._pool.acquire() as connection, connection.transaction():
                results |= await add_scooters(connection, [wanted[each] for each in chunk], by=by)
        return results

    async def get(self, scooter_id: str) -> Scooter | None:
        """One scooter; None if it is not known."""
        row = await self._pool.fetchrow(sql.GET, scooter_id)
        return scooter_of(row) if row else None

    async def find(
        self,
        *,
        tags: Sequence[str] = (),
        standings: Sequence[Standing] = (),
        ids: Sequence[str] = (),
    ) -> AsyncIterator[Scooter]:
        """Scooters by id, in pages: with all of `tags`, one of `standings`, one of `ids`.

        What is empty does not count.
        """
        after = ""
        while True:
            rows = await self._pool.fetch(
                sql.FIND,
                after,
                list(tags) or None,
                [str(each) for each in standings] or None,
                list(ids) or None,
                _CHUNK,
            )
            for row in rows:
                yield scooter_of(row)
            if len(rows) < _CHUNK:
                return
            after = rows[-1]["scooter_id"]

    async def set_standing(
        self,
        scooter_id: str,
        standing: Standing,
        *,
        by: str,
        reason: str | None = None,
        meant: str | None = None,
    ) -> Scooter:
        """Move a scooter to `standing`; doing it again changes nothing.

        `meant` is one more action for the audit, which is to follow: told also when it is repeated.

        Retiring removes the credential. Raises UnknownScooter, and StandingError for a move
        that is not legal.
        """
        await self.set_standings([scooter_id], standing, by=by, reason=reason, meant=meant)
        found = await self.get(scooter_id)
        if found is None:
            raise UnknownScooter([scooter_id])
        return found

    async def set_standings(
        self,
        scooter_ids: Sequence[str],
        standing: Standing,
        *,
        by: str,
        reason: str | None = None,
        meant: str | None = None,
    ) -> int:
        """Like `set_standing` for many, all or none; how many were moved."""
        moved = 0
        async with self._pool.acquire() as connection, connection.transaction():
            for chunk in _chunks(sorted(set(scooter_ids))):
                before = {
                    row["scooter_id"]: Standing(row["standing"])
                    for row in await connection.fetch(sql.LOCKED, chunk)
                }
                if unknown := [each for each in chunk if each not in before]:
                    raise UnknownScooter(unknown)
                details = {
                    each: {"from": current}
                    for each, current in before.items()
                    if move(each, current, standing) is not current
                }
                await connection.execute(sql.SET_STANDINGS, list(details), str(standing))
                await note(connection, str(standing), details, kind="scooter", by=by, reason=reason)
                if meant is not None:
                    told = {each: dict[str, object]() for each in before}
                    await note(connection, meant, told, kind="scooter", by=by, reason=reason)
                moved += len(details)
        return moved

    async def activate(self, generations: Mapping[str, int], *, by: str) -> set[str]:
        """Those that were handed over: from registered to active, if they are registered still
        and have a credential of just this generation; which ones did."""
        columns = (list(generations), list(generations.values()))
        async with self._pool.acquire() as connection, connection.transaction():
            active = {row[0] for row in await connection.fetch(sql.ACTIVATE, *columns)}
            details = {each: {"from": Standing.REGISTERED} for each in sorted(active)}
            await note(connection, str(Standing.ACTIVE), details, kind="scooter", by=by)
        return active

    async def begun_revocations(self) -> Sequence[str]:
        """Suspended scooters that have a credential still, and were meant to lose it."""
        return [row[0] for row in await self._pool.fetch(sql.BEGUN_REVOCATIONS)]

    async def unproved(self, kind: Kind) -> Sequence[str]:
        """Scooters or keys that are out, and no audit row `kept out` proves it since then."""
        return [row[0] for row in await self._pool.fetch(sql.UNPROVED, kind)]

    async def set_credentials(
        self,
        hashes: Mapping[str, str | None],
        *,
        by: str,
        following: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Replace credentials by these hashes, all or none; the generation of each.

        A hash is a new generation, so the old one never counts again, and whoever was active is
        registered until it is handed over; None removes it and keeps the generation. With
        `following`, each must still have the generation told there, else CredentialRaced.
        Raises UnknownScooter, and StandingError for the retired.
        """
        generations: dict[str, int] = {}
        async with self._pool.acquire() as connection, connection.transaction():
            for chunk in _chunks(sorted(hashes)):
                generations |= await give_credentials(
                    connection, {each: hashes[each] for each in chunk}, following, by=by
                )
        return generations

    async def set_tags(
        self, scooter_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = (), by: str
    ) -> Scooter:
        """Add and remove tags; raises UnknownScooter, and TagsError for what cannot be one."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(sql.LOCKED_TAGS, scooter_id)
            if row is None:
                raise UnknownScooter([scooter_id])
            before = set(row["tags"])
            after = (before | set(add)) - set(remove)
            if problem := tags_problem(tuple(after)):
                raise TagsError(problem)
            if after != before:
                await connection.execute(sql.SET_TAGS, scooter_id, sorted(after))
                change = {"added": sorted(after - before), "removed": sorted(before - after)}
                await note(connection, "tag", {scooter_id: change}, kind="scooter", by=by)
            return scooter_of(await connection.fetchrow(sql.GET, scooter_id))

    async def audit(
        self,
        action: str,
        subject: str,
        *,
        by: str,
        kind: Kind = "scooter",
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Record what was done elsewhere: a reload of the broker, a session that was ended."""
        async with self._pool.acquire() as connection:
            await note(connection, action, {subject: detail or {}}, kind=kind, by=by, reason=reason)

    async def audits(
        self, subject: str, *, kind: Kind | None = None, at_most: int = 100
    ) -> Sequence[Audit]:
        """What was done to `subject`, newest first."""
        return await access_audit.audits(self._pool, subject, kind=kind, at_most=at_most)

    async def logins(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Name and hash of everything that may get in, in one snapshot: heard scooters that
        have a credential, and active keys of active operators; with `names`, only of these."""
        return dict(await self._pool.fetch(sql.LOGINS, names))

    async def hashes(self, names: Sequence[str]) -> dict[str, str]:
        """Of scooters and keys that have a credential, also of those that may not get in."""
        return dict(await self._pool.fetch(sql.HASHES, names))

    def locked(self, *, wait_s: float = 60.0) -> AbstractAsyncContextManager[None]:
        """Hold the lock that whoever renders the broker's files takes; raises RegistryBusy.

        Bound to one connection: a process that dies frees it.
        """
        return self._hold(_LOCK, "changes who gets in at the broker", wait_s)

    def importing(self, *, wait_s: float = 5.0) -> AbstractAsyncContextManager[None]:
        """Hold the lock of an import, beside the other one; raises RegistryBusy."""
        return self._hold(_IMPORT_LOCK, "imports scooters", wait_s)

    @asynccontextmanager
    async def _hold(self, number: int, doing: str, wait_s: float) -> AsyncGenerator[None, None]:
        async with self._pool.acquire() as connection:
            tries = max(1, round(wait_s / _LOCK_POLL_S))
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", number):
                tries -= 1
                if not tries:
                    raise RegistryBusy(doing, wait_s)
                await asyncio.sleep(_LOCK_POLL_S)
            try:
                yield
            except BaseException:
                # A connection that died took its lock along; why it did is told already.
                with suppress(*POSTGRES):
                    await connection.execute(_UNLOCK, number)
                raise
            # Dead, it is told here: somebody else may have held the lock meanwhile.
            await connection.execute(_UNLOCK, number)


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
