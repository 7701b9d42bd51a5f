"""Importing many scooters: in chunks, resumable, each row with its own result."""

from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from typing import Final

from broker.admission import Admitted
from broker.errors import FleetError
from devices.bundle_places import Place
from devices.import_file import ImportRow
from devices.import_verdicts import RowOutcome, RowResult, Verdict, judge, result_of
from devices.issuing import issue, name_left
from devices.provisioning import Provisioning
from devices.refusals import Unfinished, unfinished
from devices.scooters import NewScooter

_CHUNK: Final = 500
_ADMIT_EVERY_S: Final = 10.0


class Import:
    """`async for result in Import(…)`: one result per row, in the file's order.

    It takes turns with other imports (RegistryBusy while one runs), and may be repeated: what is
    done stays, what one that was ended left half-done is finished, with a new secret where the old
    one is not in `place`. Raises NotKept or NotNamed when a chunk's bundles cannot be written
    (nothing of that chunk is committed), and Unfinished when something was and the rest failed,
    also, after the rows, when the broker does not let them in yet. What would be done is told by
    `foretell`.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        rows: Sequence[ImportRow],
        *,
        place: Place,
        by: str,
    ) -> None:
        self.admitted: Admitted | None = None
        """The broker's proof, after the last row; None when there was nobody to let in."""
        self._provisioning = provisioning
        self._registry = provisioning.registry
        self._rows = rows
        self._place = place
        self._by = by
        self._waiting: dict[str, int] = {}
        """Generations of those whose bundle is in its place, and who are not active yet."""

    async def __aiter__(self) -> AsyncIterator[RowResult]:
        async with self._registry.importing():
            admit_at = monotonic() + _ADMIT_EVERY_S
            for start in range(0, len(self._rows), _CHUNK):
                for result in await self._one_chunk(self._rows[start : start + _CHUNK]):
                    yield result
                if monotonic() > admit_at:
                    await self._let_in()
                    admit_at = monotonic() + _ADMIT_EVERY_S
            await self._let_in()

    async def _one_chunk(self, rows: Sequence[ImportRow]) -> list[RowResult]:
        try:
            return await self._chunk(rows)
        except Unfinished:
            raise
        except FleetError:
            await self._let_in()  # those before this chunk need not wait until it is mended
            raise

    async def _chunk(self, rows: Sequence[ImportRow]) -> list[RowResult]:
        wanted = {row.scooter_id: row.scooter for row in rows if row.scooter}
        async with self._registry.locked():
            await name_left(self._registry, self._place, list(wanted))
            verdicts = await judge(self._registry, list(wanted), self._place)
            problems = await self._issue(wanted, verdicts)
        for name, verdict in verdicts.items():
            if verdict.generation and name not in problems:
                self._waiting[name] = verdict.generation
        return [result_of(row, verdicts, problems) for row in rows]

    async def _issue(
        self, wanted: Mapping[str, NewScooter], verdicts: Mapping[str, Verdict]
    ) -> Mapping[str, str]:
        """Why some of them got no credential."""
        generations = {name: each.generation for name, each in verdicts.items() if each.issues}
        if not generations:
            return {}
        new = [wanted[name] for name in generations if verdicts[name].outcome is RowOutcome.ADDED]
        issued = await issue(
            self._registry,
            self._provisioning.facts,
            generations,
            register=new,
            place=self._place,
            by=self._by,
        )
        return issued.problems

    async def _let_in(self) -> None:
        """One reload of the broker for all that wait for it; then they are active."""
        if not self._waiting:
            return
        with unfinished(
            f"{len(self._waiting)} scooters are registered and their bundles are in "
            f"{self._place.path}, but they do not get in yet.",
            then="Then run the same command again, or "
            f"`scooter devices reconcile --bundles {self._place.path}`.",
        ):
            async with self._registry.locked():
                self.admitted = await self._provisioning.gate.admit(by=self._by)
                await self._registry.activate(self._waiting, by=self._by)
        self._waiting.clear()
