"""What provisioning needs of any broker: let exactly these in, and end a session."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from broker.errors import FleetError


class NotAdmitted(FleetError):
    """The broker does not let in exactly the logins it was told to; says why and what to do.

    `written`: the new logins are on the disk already, and hold at the latest when the broker
    starts again; otherwise the old ones stand.
    """

    def __init__(self, problem: str, *, written: bool) -> None:
        super().__init__(problem)
        self.written = written


class BrokerAway(FleetError):
    """The broker does not answer, or does not let the administration in.

    A password file that was to be replaced has been: it holds when the broker starts.
    """


@dataclass(frozen=True, slots=True)
class Admitted:
    """The evidence that exactly these logins get in."""

    logins: int
    file: Path | None
    sha256: str
    reload: str
    proved_after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """What was seen while a client id was held; `returned`: somebody took it back meanwhile."""

    client_id: str
    taken_over_at: datetime
    held_s: float
    returned: bool


class Broker(Protocol):
    """A broker that keeps its own list of logins; another backend implements these three."""

    async def listed(self) -> Mapping[str, str] | None:
        """The logins of that list (name → hash); None where it cannot be read as one of ours."""
        ...

    async def admit(self, logins: Mapping[str, str]) -> Admitted:
        """From now on exactly these (name → hash) get in, beside the broker's fixed accounts.

        Returns when the broker has proved it. Raises NotAdmitted or BrokerAway; doing it again is
        harmless.
        """
        ...

    async def end_session(self, client_id: str) -> Ended:
        """Take the live session over, hold its client id a moment, forget it; raises BrokerAway."""
        ...
