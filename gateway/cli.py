"""The `scooter` command: its table of contents."""

from typing import Annotated

import typer

from devices.cli import devices, operators
from devices.console.exits import EPILOG
from devices.console.frame import Commands
from devices.console.workshop import Workshop
from gateway import (
    cli_commanding,
    cli_deployment,
    cli_ledger,
    cli_mending,
    cli_reading,
    cli_running,
)

app = typer.Typer(
    cls=Commands,
    name="scooter",
    epilog=EPILOG,
    no_args_is_help=True,
    # Plain help: rich would take longer to import than everything else here.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_gateway = typer.Typer(rich_markup_mode=None)
_gateway.callback(invoke_without_command=True)(cli_running.gateway)
_gateway.command("retire", short_help="End an instance that shall not come back.")(
    cli_running.retire
)

app.command("demo", short_help="Run everything here, with a simulated fleet.")(cli_running.demo)
app.command("setup", short_help="Make secrets, certificates and servers' configuration.")(
    cli_deployment.setup
)
app.command("simulate", short_help="Let simulated scooters ride at a broker that runs.")(
    cli_deployment.simulate
)
app.add_typer(_gateway, name="gateway", short_help="Run the gateway against given servers.")
app.command("migrate", short_help="Bring the tables in Postgres up to date.")(cli_running.migrate)
app.command("settings", short_help="List every setting, secrets masked.")(cli_running.settings)
app.command("doctor", short_help="Examine servers, access and secrets.")(cli_running.doctor)
app.command("health", short_help="Ask the running gateway how it is.")(cli_running.health)

app.add_typer(devices, name="devices", short_help="Who may get in: scooters.")
app.add_typer(operators, name="operators", short_help="Who may send commands: operators.")

app.command("login", short_help="Keep an operator's key.", epilog=EPILOG)(cli_commanding.login)
app.command("logout", short_help="Remove an operator's key.", epilog=EPILOG)(cli_commanding.logout)
for _verb, (_short_help, _command) in cli_commanding.VERBS.items():
    app.command(_verb, short_help=_short_help, epilog=EPILOG)(_command)

_commands = typer.Typer(rich_markup_mode=None, no_args_is_help=True, epilog=EPILOG)
for _name, (_short_help, _command) in cli_ledger.VERBS.items():
    _commands.command(_name, short_help=_short_help, epilog=EPILOG)(_command)
app.add_typer(_commands, name="commands", short_help="What became of commands.")

app.command("state", short_help="Show the latest state of a scooter.")(cli_reading.state)
# A latitude may begin with a minus; it is no option.
app.command(
    "near",
    short_help="List the scooters around a point.",
    context_settings={"ignore_unknown_options": True},
)(cli_reading.near)
app.command("watch", short_help="Watch scooters live.")(cli_reading.watch)
app.command("snapshots", short_help="List a scooter's snapshots.")(cli_reading.snapshots)
app.command("events", short_help="List a scooter's events.")(cli_reading.events)
app.command("rejects", short_help="List messages nobody could use.")(cli_reading.rejects)

app.command("reset-order", short_help="Let a scooter's next report count as newer.")(
    cli_mending.reset_order
)
app.command("erase", short_help="Erase where a scooter was, for good.")(cli_mending.erase)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - seldom wanted

        typer.echo(version("scooter-gateway"))
        raise typer.Exit


def _open_workshop() -> Workshop:
    from gateway.console.workshop import open_workshop  # noqa: PLC0415 - not for `--help`

    return open_workshop()


@app.callback()
def scooter(
    ctx: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Run and look into the gateway of a scooter fleet.

    Data goes to standard output, talk to standard error; --json makes programs of it happy.
    Settings come from SCOOTER_... variables, `.env` or mounted secrets: see `scooter settings`.

    \b
    Example: scooter demo
    Example: scooter state SC-0001
    """
    del version  # its callback has seen to it
    ctx.obj = _open_workshop


def main() -> None:
    """The entry point of the `scooter` program; ends the process."""
    app(prog_name="scooter")
