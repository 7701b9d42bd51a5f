"""The `scooter` command: its table of contents."""

from typing import Annotated

import typer

from gateway import cli_mending, cli_reading, cli_running
from gateway.cli_frame import Commands
from gateway.exits import MEANINGS

_EXIT_CODES = "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    cls=Commands,
    name="scooter",
    epilog=f"\b\nExit codes:\n{_EXIT_CODES}",
    no_args_is_help=True,
    # Plain help: rich would take longer to import than everything else here.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.command("demo")(cli_running.demo)
app.command("gateway")(cli_running.gateway)
app.command("migrate")(cli_running.migrate)
app.command("settings")(cli_running.settings)
app.command("doctor")(cli_running.doctor)
app.command("health")(cli_running.health)

app.command("state")(cli_reading.state)
# A latitude may begin with a minus; it is no option.
app.command("near", context_settings={"ignore_unknown_options": True})(cli_reading.near)
app.command("watch")(cli_reading.watch)
app.command("snapshots")(cli_reading.snapshots)
app.command("events")(cli_reading.events)
app.command("rejects")(cli_reading.rejects)

app.command("reset-order")(cli_mending.reset_order)
app.command("erase")(cli_mending.erase)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - seldom wanted

        typer.echo(version("scooter-gateway"))
        raise typer.Exit


@app.callback()
def scooter(
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


def main() -> None:
    """The entry point of the `scooter` program; ends the process."""
    app()
