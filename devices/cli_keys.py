"""The commands about operators' keys: each is a login of its own."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from typing import Annotated

import typer

from devices.console.frame import Csv, Json, Yes, confirm, form, run
from devices.console.options import By, Out, Reason, actor

Login = Annotated[
    str, typer.Argument(metavar="KEY", help="Operator, a dot, and the key's name: alice.laptop.")
]


def add(
    ctx: typer.Context,
    login: Login,
    *,
    out: Out = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Make a key and let it in. Its secret is shown here and nowhere again, or written with --out.

    \b
    Example: scooter operators key add alice.laptop --out alice.laptop.json
    """
    from devices.console import keys

    run(keys.add(ctx.obj(), login, out=out, by=actor(by), as_json=as_json))


def list_keys(
    ctx: typer.Context,
    operator: Annotated[
        str | None, typer.Argument(metavar="[OPERATOR]", help="Only this operator's.")
    ] = None,
    *,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List keys by name, also the revoked.

    \b
    Example: scooter operators key list alice
    """
    wanted = form(as_json=as_json, as_csv=as_csv)
    from devices.console import keys

    run(keys.list_keys(ctx.obj(), operator, wanted))


def rotate(
    ctx: typer.Context,
    login: Login,
    *,
    out: Out = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Replace a key's secret: the old one is refused from now on, its live session is ended.

    \b
    Example: scooter operators key rotate alice.laptop --out alice.laptop.json
    """
    confirm(f"Replace the secret of {login}? The old one ends at once.", yes=yes)
    from devices.console import keys

    run(keys.rotate(ctx.obj(), login, out=out, by=actor(by), as_json=as_json))


def revoke(
    ctx: typer.Context,
    login: Login,
    *,
    reason: Reason = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End a key's access, and its live session; prints the evidence. Other keys stay.

    \b
    Example: scooter operators key revoke alice.laptop --reason stolen
    """
    confirm(f"End the access of the key {login}? Its secret becomes worthless.", yes=yes)
    from devices.console import keys

    run(keys.revoke(ctx.obj(), login, reason=reason, by=actor(by), as_json=as_json))
