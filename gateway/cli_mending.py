"""The commands that change what is stored about a scooter."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from datetime import datetime
from typing import Annotated

import typer

from devices.console.frame import MOMENT, Json, ScooterId, Yes, confirm, run
from devices.console.spans import Span, rfc3339


def reset_order(scooter_id: ScooterId, *, as_json: Json = False) -> None:
    """Let a scooter's next report count as newer, whatever its counters and clock say.

    The last resort for a scooter whose reports are all taken for late. What is known stays.

    \b
    Example: scooter reset-order SC-0001
    """
    from gateway.console import mending

    run(mending.reset_order(scooter_id, as_json=as_json))


def erase(
    scooter_id: ScooterId,
    *,
    start: Annotated[
        datetime,
        typer.Option(
            "--from", parser=MOMENT, metavar="TIME", help="From this time on, including it."
        ),
    ],
    end: Annotated[
        datetime,
        typer.Option("--to", parser=MOMENT, metavar="TIME", help="Up to this time, not with it."),
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase where a scooter was, for a span of time, in Redis and in every table. For good.

    Rows stay, their positions become empty. A date means its midnight, UTC: the example erases
    the first of November and nothing of the second. Rejected messages of the span lose their
    first bytes, which may tell a position. Asks first; without a terminal it needs --yes.

    \b
    Example: scooter erase SC-0001 --from 2026-11-01 --to 2026-11-02
    """
    if start >= end:
        raise typer.BadParameter("--from must be before --to")
    confirm(
        f"Erase the positions of {scooter_id} from {rfc3339(start)} up to {rfc3339(end)} for good?",
        yes=yes,
    )
    from gateway.console import mending

    run(mending.erase_positions(scooter_id, Span(start, end), as_json=as_json))
