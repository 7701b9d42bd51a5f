"""The commands about operators: who may send which commands to which scooters."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from typing import Annotated

import typer

from devices.console.frame import Csv, Json, Yes, confirm, form, run
from devices.console.options import By, Reason, actor

Operator = Annotated[str, typer.Argument(metavar="OPERATOR", help="The operator's name: alice.")]
RightCommands = Annotated[
    list[str] | None,
    typer.Option("--command", metavar="COMMAND", help="unlock, lock, …; may be repeated."),
]
AnyCommand = Annotated[bool, typer.Option("--any-command", help="The right to every command.")]
RightTags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TAG", help="Scooters with this tag; may be repeated."),
]
AnyScooter = Annotated[bool, typer.Option("--any-scooter", help="Scooters whatever their tags.")]


def add(ctx: typer.Context, operator: Operator, *, by: By = None, as_json: Json = False) -> None:
    """Make an operator known, with neither rights nor keys; one that was revoked begins anew.

    \b
    Example: scooter operators add alice
    """
    from devices.console import operating

    run(operating.add(ctx.obj(), operator, by=actor(by), as_json=as_json))


def grant(
    ctx: typer.Context,
    operator: Operator,
    *,
    commands: RightCommands = None,
    any_command: AnyCommand = False,
    tags: RightTags = None,
    any_scooter: AnyScooter = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Let an operator send commands to scooters: each of the commands, to each of the tags.

    \b
    Example: scooter operators grant alice --command lock --command unlock --tag munich
    Example: scooter operators grant night-shift --any-command --any-scooter
    """
    named = _named("--command", commands, "--any-command", is_any=any_command)
    where = _named("--tag", tags, "--any-scooter", is_any=any_scooter)
    from devices.console import operating

    run(operating.grant(ctx.obj(), operator, named, where, by=actor(by), as_json=as_json))


def ungrant(
    ctx: typer.Context,
    operator: Operator,
    *,
    commands: RightCommands = None,
    any_command: AnyCommand = False,
    tags: RightTags = None,
    any_scooter: AnyScooter = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Take just these rights away, as `list` shows them: a right to any is one of its own.

    \b
    Example: scooter operators ungrant alice --command unlock --tag munich
    """
    named = _named("--command", commands, "--any-command", is_any=any_command)
    where = _named("--tag", tags, "--any-scooter", is_any=any_scooter)
    from devices.console import operating

    run(operating.ungrant(ctx.obj(), operator, named, where, by=actor(by), as_json=as_json))


def list_operators(ctx: typer.Context, *, as_json: Json = False, as_csv: Csv = False) -> None:
    """List operators by name with their rights: command:tag, where * is any.

    \b
    Example: scooter operators list
    """
    wanted = form(as_json=as_json, as_csv=as_csv)
    from devices.console import operating

    run(operating.list_operators(ctx.obj(), wanted))


def revoke(
    ctx: typer.Context,
    operator: Operator,
    *,
    reason: Reason = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End an operator's access: rights and keys are gone, live sessions are ended, with evidence.

    \b
    Example: scooter operators revoke alice --reason 'left the company'
    """
    confirm(f"End the access of operator {operator}, with every right and key?", yes=yes)
    from devices.console import operating

    run(operating.revoke(ctx.obj(), operator, reason=reason, by=actor(by), as_json=as_json))


def _named(option: str, values: list[str] | None, any_option: str, *, is_any: bool) -> list[str]:
    if bool(values) == is_any:
        raise typer.BadParameter(f"give {option} or {any_option}, one of the two")
    return ["*"] if is_any else values or []
