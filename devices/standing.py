"""What a scooter's standing can be, and what may follow what."""

from enum import StrEnum
from typing import Final

from broker.errors import FleetError


class Standing(StrEnum):
    """Whether a scooter may speak: those that are registered or active are heard.

    `registered`: known, and has or will get a credential that was not handed over yet;
    `active`: provisioned; `suspended`: kept out for now; `retired`: out for ever.
    """

    __hash__ = str.__hash__  # an enum's own is slow, and every delivery asks

    REGISTERED = "registered"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"


HEARD: Final = frozenset({Standing.REGISTERED, Standing.ACTIVE})
"""Scooters whose messages count, and who get in at the broker if they have a credential."""

NEXT: Final = {
    Standing.REGISTERED: {Standing.ACTIVE, Standing.SUSPENDED, Standing.RETIRED},
    # Back to registered: it got a new secret, which was not handed over yet.
    Standing.ACTIVE: {Standing.REGISTERED, Standing.SUSPENDED, Standing.RETIRED},
    # Back to registered: resumed without a credential, after it was revoked.
    Standing.SUSPENDED: {Standing.REGISTERED, Standing.ACTIVE, Standing.RETIRED},
    Standing.RETIRED: set[Standing](),
}


class StandingError(FleetError):
    """A move that is not legal; `current` is what the scooter is."""

    exit_code = 4

    def __init__(self, scooter_id: str, current: Standing, detail: str) -> None:
        super().__init__(f"{scooter_id} is {current}: {detail}")
        self.scooter_id = scooter_id
        self.current = current


def move(scooter_id: str, current: Standing, to: Standing) -> Standing:
    """`to`, if it may follow `current` or is the same; raises StandingError."""
    if to is not current and to not in NEXT[current]:
        detail = (
            "retired is for ever; take another id"
            if current is Standing.RETIRED
            else f"it cannot become {to}"
        )
        raise StandingError(scooter_id, current, detail)
    return to
