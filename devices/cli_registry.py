"""The commands that look into the registry of scooters, and tag what is in it."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from typing import Annotated

import typer

from devices.console.frame import Csv, Json, ScooterId, form, run
from devices.console.options import (
    By,
    OnlyStandings,
    OnlyTags,
    Presences,
    ScooterIds,
    TagsToAdd,
    TagsToRemove,
    actor,
)
from devices.console.output import Form


def list_scooters(
    ctx: typer.Context,
    *,
    tags: OnlyTags = None,
    standings: OnlyStandings = None,
    presences: Presences = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List scooters by id, with their standing and how they were seen last.

    Presence comes from Redis, or from the last snapshot while Redis is away; `unknown` is one that
    never said anything.

    \b
    Example: scooter devices list --tag munich --presence lost
    Example: scooter devices list --standing suspended --json
    """
    wanted = form(as_json=as_json, as_csv=as_csv)
    from devices.console import listing

    run(
        listing.list_scooters(
            ctx.obj(),
            wanted,
            tags=tags or [],
            standings=[str(each) for each in standings or []],
            presences=[str(each) for each in presences or []],
        )
    )


def show(
    ctx: typer.Context,
    scooter_id: ScooterId,
    *,
    audits: Annotated[
        int, typer.Option("--audits", metavar="N", min=0, help="How many of the latest changes.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show a scooter: what the registry has, how it was seen last, and who changed its access.

    \b
    Example: scooter devices show SC-0001
    Example: scooter devices show SC-0001 --json
    """
    from devices.console import listing

    run(listing.show(ctx.obj(), scooter_id, audits=audits, as_json=as_json))


def tag(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    add: TagsToAdd = None,
    remove: TagsToRemove = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Add tags to scooters, or remove them. Operators' rights go by tags.

    \b
    Example: scooter devices tag SC-0001 SC-0002 --add munich --remove depot
    """
    if not add and not remove:
        raise typer.BadParameter("give --add TAG or --remove TAG")
    if both := set(add or []) & set(remove or []):
        raise typer.BadParameter(f"{', '.join(sorted(both))}: to add or to remove?")
    from devices.console import listing

    run(
        listing.tag(
            ctx.obj(),
            scooter_ids,
            add=add or [],
            remove=remove or [],
            by=actor(by),
            as_json=as_json,
        )
    )


def export(
    ctx: typer.Context,
    *,
    tags: OnlyTags = None,
    standings: OnlyStandings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Csv = False,
) -> None:
    """Print scooters as `import` reads them, by id: CSV, or JSON lines with --json. No secrets.

    In CSV each name of metadata is a column, and its values are texts; JSON lines keep their types.

    \b
    Example: scooter devices export --tag munich > munich.csv
    """
    form(as_json=as_json, as_csv=as_csv)
    from devices.console import listing

    run(
        listing.export(
            ctx.obj(),
            Form.JSON if as_json else Form.CSV,
            tags=tags or [],
            standings=[str(each) for each in standings or []],
        )
    )
