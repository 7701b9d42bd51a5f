"""The commands that prepare a machine of one's own, and try it with a fleet that is none."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from devices.console.frame import DURATION, Json


def setup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it all is kept.")],
    *,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            help="A host name or address by which scooters and operators reach the broker; may be "
            "repeated.",
        ),
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A folder with secrets that are kept elsewhere, one a file."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make secrets, the fleet's authority and the servers' configuration, for docker compose.

    Only what is missing: again it renews a certificate whose time is nearly up or whose names
    changed, and brings configuration up to this version. Keep FOLDER/own safe: it has every secret
    and the authority's key. With --given, files named mqtt, mqtt_admin, redis, redis_admin,
    redis_reader, postgres_superuser, postgres, postgres_reader and fleet are taken instead of new
    secrets.

    \b
    Example: scooter setup /var/lib/scooter --name mqtt.example.org
    """
    from devices.console.output import print_json, talk
    from gateway.deployment.setup import set_up

    told = set_up(folder, names=names or [], given=given)
    if as_json:
        print_json({"folder": str(folder), "changes": told})
        return
    for sentence in told or ["nothing to do"]:
        talk(sentence)


def simulate(
    *,
    bundles: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the scooters' bundles are kept.")
    ],
    scooters: Annotated[int, typer.Option(min=1, help="How many scooters ride.")] = 50,
    lasting: Annotated[
        timedelta | None,
        typer.Option("--for", parser=DURATION, metavar="DURATION", help="End after this time."),
    ] = None,
    pace: Annotated[
        float, typer.Option(min=0.01, help="How many times faster than life the fleet reports.")
    ] = 1.0,
    mishaps: Annotated[
        bool,
        typer.Option(
            "--mishaps",
            help="Answer some commands late, twice, wrongly, never, or after a reboot or a freeze.",
        ),
    ] = False,
) -> None:
    """Let simulated scooters ride at the broker that the settings name, over TLS like real ones.

    They are provisioned as `scooter devices import` does it, with the tag `demo`, and an operator
    `demo` with them; SCOOTER_MQTT_PUBLIC_HOST is where they find the broker. SIGTERM or Ctrl-C
    sends them home.

    \b
    Example: scooter simulate --scooters 20 --bundles bundles
    """
    from gateway.deployment.simulate import SimulationOptions
    from gateway.deployment.simulate import simulate as ride
    from gateway.settings import read_settings

    for_s = lasting.total_seconds() if lasting is not None else None
    options = SimulationOptions(
        scooters=scooters, bundles=bundles, pace=pace, for_s=for_s, mishaps=mishaps
    )
    ride(options, read_settings())
