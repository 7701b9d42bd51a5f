"""The base of every error that this project raises on purpose."""


class FleetError(Exception):
    """Something a person can act on; a command tells its sentences and ends with its code."""

    exit_code: int = 1

    @property
    def sentences(self) -> list[str]:
        """What to tell a person: one problem each."""
        return [str(self)]
