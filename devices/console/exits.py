"""How a command ends: the exit codes, and a failure that carries one."""

from enum import IntEnum

from broker.errors import FleetError


class Exit(IntEnum):
    """The exit codes of every command; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    TIMED_OUT = 5
    EXPIRED = 6
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "failed, or something wants mending",
    Exit.USAGE: "wrong arguments or settings",
    Exit.NOT_FOUND: "no such scooter or thing",
    Exit.REFUSED: "refused",
    Exit.TIMED_OUT: "timed out: the outcome is not known",
    Exit.EXPIRED: "expired, cancelled or superseded",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}


EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()
)
"""What the help of a command ends with."""


class CommandFailed(FleetError):
    """A command cannot do what it was asked to; the message is one sentence for a person."""

    def __init__(self, message: str, *, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = code
