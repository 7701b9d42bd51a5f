"""What a verb of provisioning did to one scooter, with its evidence."""

from dataclasses import dataclass, field
from pathlib import Path

from broker.admission import Admitted, Ended
from devices.bundle import Bundle
from devices.scooters import Scooter


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was done, and what proves it; None for a step that the verb does not have."""

    scooter: Scooter
    """As it stands now."""
    bundle: Bundle | None = field(default=None, repr=False)
    """To print, once, where no place was given: then call `handed_over`."""
    bundle_at: Path | None = None
    """Where the bundle is, where a place was given."""
    admitted: Admitted | None = None
    """The broker proved that it lets in exactly the registry's logins."""
    ended: Ended | None = None
    """The live session was taken over, and what was seen then."""
    forgotten: object = None
    """What `forget` answered (retire)."""
