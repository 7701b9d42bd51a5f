"""The commands that make scooters known: add, import; and the one that finishes what was begun."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from pathlib import Path
from typing import Annotated

import typer

from devices.console.frame import Json, run
from devices.console.options import By, Metadata, Out, ScooterIds, Tags, VehicleType, actor


def add(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    vehicle_id: Annotated[
        str | None,
        typer.Option("--vehicle-id", metavar="TEXT", help="What is printed on it. Default: ID."),
    ] = None,
    vehicle_type: VehicleType = "scooter_standing",
    tags: Tags = None,
    metadata: Metadata = None,
    out: Out = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Add scooters: make them known, give each a secret, let them in, hand the secret over once.

    The secret is shown here and nowhere again, or written with --out. Adding again what was
    interrupted finishes it; a scooter that is provisioned already stays as it is (exit code 4).

    \b
    Example: scooter devices add SC-0001 --tag munich --out bundles/
    Example: scooter devices add SC-0001 --out SC-0001.json
    Example: scooter devices add SC-0001 SC-0002 --json
    """
    if vehicle_id is not None and len(scooter_ids) > 1:
        raise typer.BadParameter("--vehicle-id is for one scooter: `import` has one for each")
    from devices.console import registering
    from devices.scooters import NewScooter

    scooters = [
        NewScooter(each, vehicle_id or "", vehicle_type, tuple(tags or ()), metadata or {})
        for each in scooter_ids
    ]
    run(registering.add(ctx.obj(), scooters, out=out, by=actor(by), as_json=as_json))


def import_file(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV with a header, or JSON lines: .jsonl, .ndjson, .json."
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Where the bundles go, readable by you alone: a folder with one for each scooter, "
            "or one file if it ends in .jsonl.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Add every scooter of a file, as `add` does, and write a bundle for each.

    Columns (or keys): scooter_id, and as wanted vehicle_id, vehicle_type, tags (with blanks
    between), metadata.NAME. Rows that cannot be added are told with their line, the others are
    added, and the exit code is 1. Run the same again after an interruption: what is done stays.

    \b
    Example: scooter devices import scooters.csv --dry-run
    Example: scooter devices import scooters.csv --out bundles/
    """
    if out is None and not dry_run:
        raise typer.BadParameter("--out is missing: an import writes its bundles, never shows them")
    from devices.console import registering

    if out is None or dry_run:
        run(registering.foretell_import(ctx.obj(), file, out=out, as_json=as_json))
    else:
        run(registering.import_file(ctx.obj(), file, out=out, by=actor(by), as_json=as_json))


def reconcile(
    ctx: typer.Context,
    *,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundles",
            metavar="PATH",
            help="Where bundles were written to; may be repeated. Registered scooters whose bundle "
            "is there become active.",
        ),
    ] = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Make the broker agree with the registry, and finish what was interrupted.

    Renders the password file, proves that the broker loaded it, ends the sessions of those who are
    out, and says what only a person can do. Harmless at any time.

    \b
    Example: scooter devices reconcile --bundles bundles/
    """
    from devices.console import registering

    run(registering.reconcile(ctx.obj(), bundles=bundles or [], by=actor(by), as_json=as_json))
