"""The gate: lets in exactly the registry's logins, and proves that somebody is out."""

from collections.abc import Awaitable, Callable
from typing import Any

from broker.admission import Admitted, Broker, Ended
from devices.access_audit import Kind
from devices.refusals import Unfinished
from devices.registry import Registry


class Gate:
    """The broker as the registry wants it; what was proved goes into the audit."""

    def __init__(self, registry: Registry, broker: Broker) -> None:
        self._registry = registry
        self._broker = broker

    async def admit(self, *, by: str) -> Admitted:
        """Have the broker let in exactly the registry's logins, under the registry's lock.

        Raises NotAdmitted or BrokerAway.
        """
        admitted = await self._broker.admit(await self._registry.logins())
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

        Raises BrokerAway, and Unfinished when it came back: then it is not out.
        """
        ended = await self._broker.end_session(name)
        if ended.returned:
            raise Unfinished(
                [
                    f"{name} does not get in any more, but its session came back.",
                    "Somebody on the broker's internal listener uses its client id: look there.",
                ]
            )
        return ended

    async def put_out(
        self,
        name: str,
        *,
        kind: Kind,
        admitted: Admitted,
        by: str,
        reason: str | None = None,
        forget: Callable[[str], Awaitable[object]] | None = None,
    ) -> tuple[Ended, object]:
        """End the session of a login that was `admitted` no more, `forget` it, and record that."""
        ended = await self.end_session(name)
        # Only now: its will may have been published, and retained, as its session ended.
        forgotten = await forget(name) if forget else None
        detail = {
            **_told_of_admission(admitted),
            "taken_over_at": ended.taken_over_at.isoformat(),
            "held_s": round(ended.held_s, 3),
            "returned": ended.returned,
            "forgotten": forget is not None,
        }
        await self._registry.audit("kept out", name, kind=kind, by=by, reason=reason, detail=detail)
        return ended, forgotten


def _told_of_admission(admitted: Admitted) -> dict[str, Any]:
    return {
        "logins": admitted.logins,
        "file": str(admitted.file) if admitted.file else None,
        "sha256": admitted.sha256,
        "reload": admitted.reload,
        "proved_after_s": round(admitted.proved_after_s, 3),
    }
