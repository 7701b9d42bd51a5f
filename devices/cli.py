"""`scooter devices` and `scooter operators`: their table of contents."""

from collections.abc import Callable
from typing import Any

import typer

from devices import cli_access, cli_keys, cli_operators, cli_registering, cli_registry
from devices.console.exits import EPILOG


def _group(help_: str, commands: dict[str, tuple[str, Callable[..., Any]]]) -> typer.Typer:
    group = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help=help_, epilog=EPILOG)
    for name, (short_help, command) in commands.items():
        group.command(name, short_help=short_help, epilog=EPILOG)(command)
    return group


devices = _group(
    "Add scooters, hand them their secrets, and take their access.",
    {
        "add": ("Add scooters and hand over their secrets.", cli_registering.add),
        "import": ("Add every scooter of a file.", cli_registering.import_file),
        "list": ("List scooters.", cli_registry.list_scooters),
        "show": ("Show a scooter and who changed its access.", cli_registry.show),
        "tag": ("Add or remove tags.", cli_registry.tag),
        "suspend": ("Keep scooters out for now.", cli_access.suspend),
        "resume": ("Let suspended scooters in again.", cli_access.resume),
        "rotate": ("Replace scooters' secrets.", cli_access.rotate),
        "revoke": ("End scooters' access, with evidence.", cli_access.revoke),
        "retire": ("Retire scooters for ever.", cli_access.retire),
        "export": ("Print scooters as `import` reads them.", cli_registry.export),
        "reconcile": ("Finish what was interrupted.", cli_registering.reconcile),
    },
)

_keys = _group(
    "The keys with which an operator logs in: one key, one connection.",
    {
        "add": ("Make a key and hand over its secret.", cli_keys.add),
        "list": ("List keys.", cli_keys.list_keys),
        "rotate": ("Replace a key's secret.", cli_keys.rotate),
        "revoke": ("End a key's access, with evidence.", cli_keys.revoke),
    },
)

operators = _group(
    "Who may send commands, to which scooters, and with which keys.",
    {
        "add": ("Make an operator known.", cli_operators.add),
        "grant": ("Let an operator send commands.", cli_operators.grant),
        "ungrant": ("Take rights away.", cli_operators.ungrant),
        "list": ("List operators and their rights.", cli_operators.list_operators),
        "revoke": ("End an operator's access, with evidence.", cli_operators.revoke),
    },
)
operators.add_typer(_keys, name="key", short_help="Make, list, rotate and revoke keys.")
