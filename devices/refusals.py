"""Why a verb of provisioning ends without having done all: refused before, or unfinished after."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from broker.errors import FleetError
from devices.console.exits import Exit
from devices.registry_errors import POSTGRES
from devices.scooters import Scooter
from devices.standing import Standing

RECONCILE: Final = "Then run `scooter devices reconcile`, or the same command again."


REFUSALS: Final = {Exit.USAGE, Exit.NOT_FOUND, Exit.REFUSED}
"""Exit codes of errors that are about one subject: the next one may fare better."""

_NAMED: Final = 10


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
    except (FleetError, *POSTGRES) as error:
        raise cut_short(done, error, then=then) from error


def cut_short(done: str, error: BaseException, *, then: str = RECONCILE) -> Unfinished:
    """The same as an error to raise."""
    if isinstance(error, FleetError):
        return Unfinished([done, *error.sentences, then])
    return Unfinished([done, f"Postgres: {error or type(error).__name__}.", then])


def raise_all(errors: Sequence[FleetError]) -> None:
    """Raise what there is; what is unfinished before what was refused."""
    if len(errors) > 1:
        raise ExceptionGroup("several", sorted(errors, key=lambda each: each.exit_code in REFUSALS))
    for error in errors:
        raise error


def short(names: Sequence[str]) -> str:
    """A fleet does not fit on a screen."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


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
