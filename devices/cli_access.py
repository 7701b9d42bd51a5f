"""The commands that give and take a scooter's access."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from typing import TYPE_CHECKING

import typer

from devices.console.frame import Json, Yes, confirm, run
from devices.console.options import By, Out, Reason, ScooterIds, actor, named

if TYPE_CHECKING:
    from devices.ending import Ending


def suspend(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    reason: Reason = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Keep scooters out for now; `resume` lets them in again with the secret they have.

    The gateway stops listening, the broker refuses the login, the live session is ended, and the
    evidence of it is printed.

    \b
    Example: scooter devices suspend SC-0001 --reason 'stolen?'
    """
    from devices.ending import SUSPEND

    _end(ctx, "suspending", scooter_ids, SUSPEND, reason=reason, by=by, as_json=as_json)


def resume(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    reason: Reason = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Let suspended scooters in again. One whose secret was revoked needs `rotate` after it.

    \b
    Example: scooter devices resume SC-0001
    """
    from devices.console import access

    run(access.resume(ctx.obj(), scooter_ids, reason=reason, by=actor(by), as_json=as_json))


def rotate(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    out: Out = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Replace scooters' secrets: the old ones are refused from now on, live sessions are ended.

    The new secret is shown here and nowhere again, or written with --out.

    \b
    Example: scooter devices rotate SC-0001 --out bundles/
    """
    confirm(f"Replace the secret of {named(scooter_ids)}? The old one ends at once.", yes=yes)
    from devices.console import access

    run(access.rotate(ctx.obj(), scooter_ids, out=out, by=actor(by), as_json=as_json))


def revoke(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    reason: Reason = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End scooters' access: the secret is worthless from now on, and they are suspended.

    Prints the evidence: that the broker loaded a list without them, when the live session was taken
    over, and that nobody came back. `resume` and `rotate` begin anew.

    \b
    Example: scooter devices revoke SC-0001 --reason 'secret leaked'
    """
    confirm(f"End the access of {named(scooter_ids)}? Its secret becomes worthless.", yes=yes)
    from devices.ending import REVOKE

    _end(ctx, "revoking", scooter_ids, REVOKE, reason=reason, by=by, as_json=as_json)


def retire(
    ctx: typer.Context,
    scooter_ids: ScooterIds,
    *,
    reason: Reason = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Retire scooters for ever: access ends, the id is never used again.

    What Redis has of them, the row they would be refilled from and the status that the broker
    retains are removed; the history stays.

    \b
    Example: scooter devices retire SC-0001 --reason scrapped
    """
    confirm(f"Retire {named(scooter_ids)} for ever?", yes=yes)
    from devices.ending import RETIRE

    _end(ctx, "retiring", scooter_ids, RETIRE, reason=reason, by=by, as_json=as_json)


def _end(
    ctx: typer.Context,
    what: str,
    scooter_ids: list[str],
    ending: "Ending",
    *,
    reason: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    from devices.console import access

    done = access.end(
        ctx.obj(), what, scooter_ids, ending, reason=reason, by=actor(by), as_json=as_json
    )
    run(done)
