"""The gate: lets in exactly the registry's logins, and proves that somebody is out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.admission import Admitted, Broker, Ended
from broker.errors import FleetError
from devices.access_audit import Kind
from devices.refusals import RECONCILE, Unfinished, unfinished
from devices.registry import Registry

_AT_ONCE: Final = 20
"""Each holds a client id for a moment, on a connection of its own."""

_LET_GO_S: Final = 0.7
"""More than anybody's command holds a client id."""

Forget = Callable[[str], Awaitable[object]]


class CameBack(Unfinished):
    """Somebody took a session back that was ended; it is about this login alone."""

    def __init__(self, name: str) -> None:
        super().__init__(
            [
                f"{name} does not get in any more, but its session came back.",
                "Somebody on the broker's internal listener uses its client id: look there.",
            ]
        )


@dataclass(frozen=True, slots=True)
class Out:
    """A login that is out, and what was seen when its session was ended."""

    name: str
    ended: Ended
    forgotten: object = None


class Gate:
    """The broker as the registry wants it; what was proved goes into the audit."""

    def __init__(self, registry: Registry, broker: Broker) -> None:
        self._registry = registry
        self._broker = broker

    async def admit(self, *, by: str) -> Admitted:
        """Have the broker let in exactly the registry's logins, under the registry's lock.

        Raises NotAdmitted or BrokerAway. Whoever writes last looks again afterwards: the lock dies
        with its connection, and then another command may have changed the registry meanwhile.
        """
        logins = await self._registry.logins()
        admitted = await self._broker.admit(logins)
        while (now := await self._registry.logins()) != logins:
            logins, admitted = now, await self._broker.admit(now)
        await self._registry.audit(
            "admit", "broker", kind="broker", by=by, detail=_told_of_admission(admitted)
        )
        return admitted

    async def differs(self) -> set[str]:
        """Logins that the broker's list has and the registry has not, or the other way round, or
        with another secret; every one of the registry where that list cannot be read."""
        wanted = await self._registry.logins()
        listed = await self._broker.listed() or {}
        return {name for name, _ in wanted.items() ^ listed.items()}

    async def end_session(self, name: str) -> Ended:
        """End the live session of a login that has no right to it, or no more.

        Raises BrokerAway, and CameBack: then it is not out.
        """
        ended = await self._broker.end_session(name)
        if ended.returned:
            # Another command may end the same session, and then it lets go of it by itself.
            await asyncio.sleep(_LET_GO_S)
            ended = await self._broker.end_session(name)
        if ended.returned:
            raise CameBack(name)
        return ended

    async def put_out(
        self,
        names: Sequence[str],
        *,
        doubt: Callable[[Sequence[str]], str],
        kind: Kind,
        admitted: Admitted,
        by: str,
        reason: str | None = None,
        forget: Forget | None = None,
    ) -> AsyncGenerator[Out | FleetError, None]:
        """End the sessions of logins that were `admitted` no more, several at once, `forget` each,
        and record that; in this order, each with what was seen or why it is not proved.

        Ends early, with an Unfinished, when the others would not fare better. `doubt` is the
        sentence that tells of whom nothing is proved.
        """

        async def put_out(name: str) -> Out | FleetError:
            try:
                with unfinished(doubt([name])):
                    return await self._put_out(
                        name, kind=kind, admitted=admitted, by=by, reason=reason, forget=forget
                    )
            except Unfinished as error:
                return error

        for start in range(0, len(names), _AT_ONCE):
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(put_out(name), name=f"put out {name}")
                    for name in names[start : start + _AT_ONCE]
                ]
            outcomes = [task.result() for task in tasks]
            for outcome in outcomes:
                yield outcome
            left = names[start + _AT_ONCE :]
            if left and not all(isinstance(each, Out | CameBack) for each in outcomes):
                yield Unfinished([doubt(left), RECONCILE])
                return

    async def _put_out(
        self,
        name: str,
        *,
        kind: Kind,
        admitted: Admitted,
        by: str,
        reason: str | None,
        forget: Forget | None,
    ) -> Out:
        ended = await self.end_session(name)
        # Only now: its will may have been published, and retained, as its session ended.
        forgotten = await forget(name) if forget else None
        detail = {
            **_told_of_admission(admitted),
            "taken_over_at": ended.taken_over_at.isoformat(),
            "held_s": round(ended.held_s, 3),
            "returned": ended.returned,
            "forgotten": forgotten is not None,
        }
        await self._registry.audit("kept out", name, kind=kind, by=by, reason=reason, detail=detail)
        return Out(name, ended, forgotten)


def _told_of_admission(admitted: Admitted) -> dict[str, Any]:
    return {
        "logins": admitted.logins,
        "file": str(admitted.file) if admitted.file else None,
        "sha256": admitted.sha256,
        "reload": admitted.reload,
        "proved_after_s": round(admitted.proved_after_s, 3),
    }
