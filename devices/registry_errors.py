"""Why the registry does not do what it was asked to."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from broker.errors import FleetError

POSTGRES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What the driver raises: Postgres is away, or refuses."""


class UnknownScooter(FleetError):
    """The registry knows no scooter of these ids."""

    exit_code = 3

    def __init__(self, scooter_ids: Sequence[str]) -> None:
        named = ", ".join(scooter_ids[:5]) + (" …" if scooter_ids[5:] else "")
        super().__init__(
            f"the registry knows no scooter {named}: add it with `scooter devices add`"
        )
        self.scooter_ids = scooter_ids


class CredentialRaced(FleetError):
    """Somebody else gave these scooters a credential meanwhile; nothing was changed."""

    def __init__(self, scooter_ids: Sequence[str]) -> None:
        named = ", ".join(scooter_ids[:5]) + (" …" if scooter_ids[5:] else "")
        super().__init__(f"the credential of {named} was changed meanwhile: repeat the command")
        self.scooter_ids = scooter_ids


class TagsError(FleetError):
    """These cannot be tags."""

    exit_code = 2


class RegistryBusy(FleetError):
    """Another command holds what this one needs and did not finish in time."""

    def __init__(self, doing: str, waited_s: float) -> None:
        super().__init__(
            f"another command {doing} (waited {waited_s:.0f} s): try again when it has ended"
        )
