"""Why a verb of provisioning ends without having done all: refused before, or unfinished after."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from broker.errors import FleetError
from devices.console.exits import Exit
from devices.scooters import Scooter
from devices.standing import Standing

RECONCILE: Final = "Then run `scooter devices reconcile`, or the same command again."


class Refused(FleetError):
    """Nothing was changed; the message says why, and what to do instead."""

    exit_code = Exit.REFUSED


class Unfinished(FleetError):
    """Some steps are done, and stay; the sentences say which, what is not, and how to finish."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__(" ".join(sentences))
        self._sentences = list(sentences)

    @property
    def sentences(self) -> list[str]:
        return self._sentences


@contextmanager
def unfinished(done: str, *, then: str = RECONCILE) -> Iterator[None]:
    """What fails inside is told after what is `done` already, and before what to do `then`."""
    try:
        yield
    except Unfinished:
        raise
    except FleetError as error:
        raise Unfinished([done, *error.sentences, then]) from error


def why_known(scooter: Scooter) -> str | None:
    """Why a scooter that is known gets no credential by being added again; None: it may."""
    named = f"{scooter.scooter_id} is {scooter.standing}"
    rotate = f"`scooter devices rotate {scooter.scooter_id}` makes a new secret"
    match scooter.standing:
        case Standing.RETIRED:
            return f"{named} for ever: take another id."
        case Standing.SUSPENDED if scooter.has_credential:
            return f"{named}: `scooter devices resume {scooter.scooter_id}` lets it in again."
        case Standing.SUSPENDED:
            return f"{named} and its credential revoked: {rotate}, `resume` lets it in again."
        case Standing.ACTIVE:
            return f"{named} already: {rotate} and ends the one it has."
        case Standing.REGISTERED if scooter.generation:
            return f"{named}, but its secret was never handed over: {rotate}."
    return None
