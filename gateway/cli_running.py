"""The commands that run the system or look after it."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from devices.console.exits import Exit
from devices.console.frame import DURATION, Json, Yes, confirm, run


def gateway(ctx: typer.Context) -> None:
    """Run the gateway against the servers that the settings name, until SIGTERM or Ctrl-C.

    Settings come from the environment, `.env` or mounted secrets: see `scooter settings`. It
    refuses to start (exit code 4) on servers that would lose data, and waits for servers that
    are away.

    \b
    Example: SCOOTER_MQTT_HOST=broker.internal scooter gateway
    """
    if ctx.invoked_subcommand is not None:
        return
    from gateway.console.running import run_gateway

    run_gateway()


def retire(
    instance: Annotated[
        str, typer.Argument(metavar="NAME", help="SCOOTER_INSTANCE of the gateway that is gone.")
    ],
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End a gateway instance that shall not come back: take over and delete its broker session.

    What the session still holds is kept first. Refused (exit code 4) while the instance runs.
    Asks first; without a terminal it needs --yes.

    \b
    Example: scooter gateway retire gateway-2
    """
    confirm(f"Delete the broker session of {instance}, once it is empty?", yes=yes)
    from gateway.console.running import retire_instance

    run(retire_instance(instance, as_json=as_json))


def demo(
    *,
    scooters: Annotated[int, typer.Option(min=1, help="How many scooters ride.")] = 50,
    lasting: Annotated[
        timedelta | None,
        typer.Option("--for", parser=DURATION, metavar="DURATION", help="End after this time."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, the last line.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty the data folder first.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(
        ".demo"
    ),
    period: Annotated[
        timedelta,
        typer.Option(
            parser=DURATION, metavar="DURATION", show_default="5s", help="The snapshot period."
        ),
    ] = timedelta(seconds=5),
    pace: Annotated[
        float, typer.Option(min=0.01, help="How many times faster than life the fleet reports.")
    ] = 5.0,
    mishaps: Annotated[
        bool,
        typer.Option(
            "--mishaps",
            help="Answer some commands late, twice, wrongly, never, or after a reboot or a freeze.",
        ),
    ] = False,
) -> None:
    """Run everything on this machine: servers, the gateway, a simulated fleet, a live table.

    Servers listen on free loopback ports and keep their data in one folder, which is used again
    next time. Scooters and an operator are provisioned as `scooter devices` and `scooter operators`
    do it; their bundles are in that folder. Ctrl-C ends everything in order.

    \b
    Example: scooter demo
    Example: scooter demo --scooters 200 --for 20s --json
    """
    from gateway.local.demo import DemoOptions, run_demo

    options = DemoOptions(
        scooters=scooters,
        for_s=lasting.total_seconds() if lasting is not None else None,
        as_json=as_json,
        fresh=fresh,
        folder=folder,
        period_s=period.total_seconds(),
        pace=pace,
        mishaps=mishaps,
    )
    raise typer.Exit(run_demo(options))


def settings(*, as_json: Json = False) -> None:
    """List every setting: name, value, default and meaning, with secrets masked.

    Wrong settings are told one sentence each, with exit code 2.

    \b
    Example: scooter settings
    Example: SCOOTER_SNAPSHOT_PERIOD_S=60 scooter settings --json
    """
    from gateway.console.running import show_settings

    show_settings(as_json=as_json)


def migrate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be applied.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the tables in Postgres up to this version; harmless when they are.

    \b
    Example: scooter migrate --dry-run
    """
    from gateway.console.running import migrate_postgres

    run(migrate_postgres(dry_run=dry_run, as_json=as_json))


def health(
    *,
    live_only: Annotated[
        bool,
        typer.Option("--live", help="Only ask whether it lives, not whether it is ready."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the gateway that runs at SCOOTER_METRICS_HOST and _PORT whether it is well.

    Exit code 0 when it is; 1 when it is not or not there; 5 when it does not answer in time.

    \b
    Example: scooter health
    """
    from gateway.console.asking import show_health

    show_health(live_only=live_only, as_json=as_json)


def doctor(*, as_json: Json = False) -> None:
    """Examine the broker, Redis and Postgres, who gets in, and the files with secrets.

    Each finding says how to mend it; the exit code is 1 when there is one. What cannot be reached
    from here is told as not examined: that is no finding, and it is not well. It writes nothing
    that lasts: at the broker it uses topics and sessions of its own, and deletes these. It tries
    to speak and to listen as somebody else there, and to log in with wrong secrets: the broker
    notes refused logins in its log.

    \b
    Example: scooter doctor
    Example: scooter doctor --json
    """
    from gateway.console.doctor import examine_all

    if not run(examine_all(as_json=as_json)):
        raise typer.Exit(Exit.FAILED)
