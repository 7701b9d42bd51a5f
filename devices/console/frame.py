"""What every command shares: errors as sentences and exit codes, options, running a coroutine."""

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperGroup

from broker.errors import FleetError
from devices.console.exits import CommandFailed, Exit
from devices.console.output import Form, write
from devices.console.spans import Span, parse_distance, parse_duration, parse_moment
from devices.contract import topics

T = TypeVar("T")


_PLAIN_WORDS: Final = {
    r"^Value error, ": "",
    r"^Input should be less than or equal to ": "it takes at most ",
    r"^Input should be greater than or equal to ": "it takes at least ",
    r"^Input should be a valid integer.*": "it takes a whole number",
    r"^Input should be a valid number.*": "it takes a number",
}
"""What typer's validator says of a wrong value, and what a person is told instead."""


class Commands(TyperGroup):
    """Ends each command that fails with one clear sentence on stderr, and its exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer keeps the class to itself
        try:
            done = self._invoke(ctx)
            write("", at_once=True)
        except* FleetError as errors:
            found = _leaves(errors)
        else:
            return done
        for sentence in dict.fromkeys(each for error in found for each in error.sentences):
            typer.echo(f"Error: {sentence}", err=True)
        raise typer.Exit(found[0].exit_code)

    def _invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - see above
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            for theirs, ours in _PLAIN_WORDS.items():
                error.message = re.sub(theirs, ours, error.message)
            raise


def _leaves(error: BaseException) -> list[FleetError]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error] if isinstance(error, FleetError) else []


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; the log of what it calls goes to stderr, warnings only."""
    import structlog  # noqa: PLC0415 - not for `--help`

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    return asyncio.run(coroutine)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal refuse instead of waiting."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            "nobody is there to ask: add --yes to do it without asking", code=Exit.REFUSED
        )
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C or the end of the input
        agreed = False
    if not agreed:
        raise CommandFailed("nothing was changed", code=Exit.REFUSED)


def _typed(parse: Callable[[str], T], kind: type[T]) -> Callable[[Any], T]:
    """A parser for typer, which hands it the default too, and wants its own kind of error."""

    def convert(value: str | T) -> T:
        if isinstance(value, kind):
            return value
        try:
            return parse(str(value))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return convert


def _scooter_id(text: str) -> str:
    if not topics.is_scooter_id(text):
        raise typer.BadParameter(
            f"{text!r} is no scooter id: 3 to 32 letters, digits, _ or -, the first a letter "
            "or digit"
        )
    return text


def _moment(text: str) -> datetime:
    return parse_moment(text, now=datetime.now(UTC))


SCOOTER_ID = _scooter_id
MOMENT = _typed(_moment, datetime)
DURATION = _typed(parse_duration, timedelta)
DISTANCE = _typed(parse_distance, float)

ScooterId = Annotated[
    str, typer.Argument(parser=_scooter_id, metavar="ID", help="The scooter's id: SC-0001.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=MOMENT,
        metavar="TIME",
        help="From then on: 90s, 15m, 1h, 7d ago, or RFC 3339 (UTC unless it says otherwise).",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(parser=MOMENT, metavar="TIME", help="Up to then, not including it. Default: now."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def form(*, as_json: bool, as_csv: bool) -> Form:
    """Which of the three forms was asked for."""
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    if as_json:
        return Form.JSON
    return Form.CSV if as_csv else Form.TABLE


def span(since: datetime | None, until: datetime | None, *, usual: timedelta) -> Span:
    """From `since` (or `usual` before the end) up to, not including, `until` (or now)."""
    end = until or datetime.now(UTC)
    start = since or end - usual
    if start >= end:
        raise typer.BadParameter("--since must be before --until")
    # A server's clock may be ahead of ours, and what it stored just now is meant too.
    return Span(start, until or end + timedelta(minutes=1))
