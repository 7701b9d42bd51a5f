"""The commands that read: states from Redis, and what Postgres keeps."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from datetime import timedelta
from typing import Annotated

import typer

from devices.console.frame import (
    DISTANCE,
    DURATION,
    Csv,
    Json,
    ScooterId,
    Since,
    Until,
    form,
    run,
    span,
)
from devices.console.options import OnlyTags

_HOUR = timedelta(hours=1)


def state(scooter_id: ScooterId, *, as_json: Json = False) -> None:
    """Show the latest state of a scooter, where it was found, and how old each part is.

    Redis is asked first, then Postgres; what only Postgres has is put back into Redis.

    \b
    Example: scooter state SC-0001 --json
    """
    from gateway.console import reading

    run(reading.show_state(scooter_id, as_json=as_json))


def near(
    lat: Annotated[float, typer.Argument(min=-90, max=90, metavar="LAT", help="Degrees north.")],
    lon: Annotated[float, typer.Argument(min=-180, max=180, metavar="LON", help="Degrees east.")],
    *,
    within_m: Annotated[
        float,
        typer.Option(
            "--within", parser=DISTANCE, metavar="DISTANCE", show_default="500m", help="500m, 2km."
        ),
    ] = 500.0,
    as_json: Json = False,
) -> None:
    """List the scooters around a point, nearest first.

    \b
    Example: scooter near 48.1371 11.5754 --within 500m
    Example: scooter near -33.92 18.42 --within 1.5km --json
    """
    from gateway.console import reading

    run(reading.show_near(lat, lon, within_m=within_m, as_json=as_json))


def snapshots(
    scooter_id: ScooterId,
    *,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List a scooter's snapshots, oldest first; without --since those of the last hour.

    A snapshot is the state at the end of a period in which it changed. JSON and CSV have every
    column, the table the commonest.

    \b
    Example: scooter snapshots SC-0001 --since 1h --csv > snapshots.csv
    Example: scooter snapshots SC-0001 --since 2026-11-01 --until 2026-11-02 --json
    """
    wanted = span(since, until, usual=_HOUR)
    from gateway.console import reading

    run(reading.show_snapshots(scooter_id, wanted, form(as_json=as_json, as_csv=as_csv)))


def events(
    scooter_id: ScooterId,
    *,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List a scooter's events as they were received; without --since those of seven days.

    \b
    Example: scooter events SC-0001 --since 12h
    """
    wanted = span(since, until, usual=7 * 24 * _HOUR)
    from gateway.console import reading

    run(reading.show_events(scooter_id, wanted, form(as_json=as_json, as_csv=as_csv)))


def rejects(
    *,
    since: Since = None,
    until: Until = None,
    scooter_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Only those of this scooter.")
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List messages nobody could use, with the reason and the first bytes, identical ones once.

    Without --since, those of the last 24 hours. The table shows the beginning of each message
    with what is not printable escaped; JSON and CSV have the bytes in base64.

    \b
    Example: scooter rejects --since 24h
    Example: scooter rejects --id SC-0001 --json
    """
    wanted = span(since, until, usual=24 * _HOUR)
    from gateway.console import reading

    run(reading.show_rejects(scooter_id, wanted, form(as_json=as_json, as_csv=as_csv)))


def watch(
    *,
    tags: OnlyTags = None,
    pattern: Annotated[
        str, typer.Option("--id", metavar="PATTERN", help="Only ids like this: 'SC-00*'.")
    ] = "*",
    lasting: Annotated[
        timedelta | None,
        typer.Option("--for", parser=DURATION, metavar="DURATION", help="End after this time."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines: one object a change.")
    ] = False,
) -> None:
    """Watch scooters live: a table on a terminal, else one line for each change.

    A change holds the fields that changed; null says that a field is gone. Changes that happen
    while Redis is away are not told. Tags are as the registry has them, a few seconds behind. End
    with Ctrl-C.

    \b
    Example: scooter watch --id 'SC-00*'
    Example: scooter watch --tag munich
    Example: scooter watch --json --for 1m
    """
    from gateway.console import watching

    run(watching.watch(pattern, tags=tags or [], lasting=lasting, as_json=as_json))
