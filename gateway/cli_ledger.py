"""The commands about commands: what the ledger has of them, and calling one off."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

import re
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer

from devices.console.frame import (
    DURATION,
    SCOOTER_ID,
    Csv,
    Json,
    Since,
    Until,
    form,
    run,
    span,
)
from gateway.console.commanding_options import JsonLines, KeyFile, Login

_DAY = timedelta(days=1)
_REQUEST_ID = re.compile(r"[0-9a-f]{16}")


class Status(StrEnum):
    """As the contract has them, here without what makes `--help` slow."""

    REFUSED = "refused"
    QUEUED = "queued"
    SENT = "sent"
    RECEIVED = "received"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


def _request_id(text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no request id: 16 digits of 0-9 and a-f")
    return text


def _command(text: str) -> str:
    return text.replace("-", "_")  # as it is typed: get-state


RequestId = Annotated[
    str, typer.Argument(parser=_request_id, metavar="REQUEST", help="A request id: 16 hex digits.")
]
OnlyScooter = Annotated[
    str | None,
    typer.Option("--scooter", parser=SCOOTER_ID, metavar="ID", help="Only those of this one."),
]
OnlyOperator = Annotated[
    str | None, typer.Option("--operator", metavar="NAME", help="Only those of this one: alice.")
]
OnlyStatuses = Annotated[
    list[Status] | None, typer.Option("--status", help="Only in this one; repeated: in either.")
]
OnlyCommand = Annotated[
    str | None,
    typer.Option("--command", parser=_command, metavar="COMMAND", help="Only these: lock."),
]


def list_commands(
    *,
    scooter_id: OnlyScooter = None,
    operator: OnlyOperator = None,
    statuses: OnlyStatuses = None,
    command: OnlyCommand = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the newest N. Default: all of the time."),
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List commands as they stand, oldest first; without --since those of the last 24 hours.

    Refused ones too. JSON and CSV have every column. How many --limit left out is told on stderr;
    the newest N are listed, oldest first too.

    \b
    Example: scooter commands list --status timed_out --since 7d
    Example: scooter commands list --scooter SC-0001 --limit 20 --json
    """
    spanned = span(since, until, usual=_DAY)
    from gateway.console import ledger
    from gateway.console.ledger_rows import Wanted

    wanted = Wanted(scooter_id=scooter_id, operator=operator, statuses=statuses, command=command)
    how = form(as_json=as_json, as_csv=as_csv)
    run(ledger.show_commands(wanted, spanned, how, limit=limit))


def show(request_id: RequestId, *, as_json: Json = False) -> None:
    """Show a command with every move: when, who, why, and by what it was judged.

    \b
    Example: scooter commands show 1f0c9a52d3e84b67
    """
    from gateway.console import ledger

    run(ledger.show_command(request_id, as_json=as_json))


def follow(
    request_id: Annotated[
        str | None,
        typer.Argument(parser=_request_id, metavar="[REQUEST]", help="This one, to its end."),
    ] = None,
    *,
    scooter_id: OnlyScooter = None,
    operator: OnlyOperator = None,
    command: OnlyCommand = None,
    lasting: Annotated[
        timedelta | None,
        typer.Option("--for", parser=DURATION, metavar="DURATION", help="End after this time."),
    ] = None,
    as_json: JsonLines = False,
) -> None:
    """Follow a command to its end, and end with its exit code; or every move from now on.

    Moves are as fresh as half a second. End with Ctrl-C.

    \b
    Example: scooter commands follow 1f0c9a52d3e84b67
    Example: scooter commands follow --operator alice --json
    """
    if request_id is not None and (scooter_id or operator or command or lasting):
        raise typer.BadParameter("a REQUEST is followed to its end: no other options")
    from gateway.console import ledger
    from gateway.console.ledger_rows import Wanted

    if request_id is not None:
        run(ledger.follow_command(request_id, as_json=as_json))
        return
    wanted = Wanted(scooter_id=scooter_id, operator=operator, command=command)
    run(ledger.follow(wanted, lasting=lasting, as_json=as_json))


def cancel(
    request_id: RequestId,
    *,
    scooter_id: Annotated[
        str | None,
        typer.Option(
            "--scooter",
            parser=SCOOTER_ID,
            metavar="ID",
            help="Whose command it is. Default: the ledger is asked.",
        ),
    ] = None,
    login: Login = None,
    key_file: KeyFile = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept.")] = None,
    as_json: JsonLines = False,
) -> None:
    """Call off a command that waits for its scooter. What was sent cannot be called back.

    It is asked for with an operator's key, like a command. With --scooter it needs no access to
    Postgres.

    \b
    Example: scooter commands cancel 1f0c9a52d3e84b67 --as alice.laptop
    """
    from gateway.console import ledger

    ledger.cancel(
        request_id,
        scooter_id=scooter_id or run(ledger.scooter_of(request_id)),
        login=login,
        key_file=key_file,
        reason=reason,
        as_json=as_json,
    )


VERBS: Final[dict[str, tuple[str, Callable[..., None]]]] = {
    "list": ("List commands as they stand.", list_commands),
    "show": ("Show a command and its every move.", show),
    "follow": ("Follow a command, or all.", follow),
    "cancel": ("Call off a command that waits.", cancel),
}
"""`scooter commands …`."""
