"""The options that every command to scooters has, and how an order is made of them."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from devices.console.frame import DURATION, SCOOTER_ID, Yes, confirm, run
from devices.console.options import OnlyTags, named

Params = Mapping[str, Any]

_MANY: Final = 10
"""More scooters than a person names on purpose are asked about first."""

_DRASTIC: Final = frozenset({"reboot", "power_off"})
_OPENS: Final = frozenset({"unlock", "unlock_battery"})
_REASON_MAX: Final = 256
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")


def _share(text: str | float) -> float:
    if isinstance(text, float):
        return text
    found = _SHARE.fullmatch(text)
    if found is None or float(found[1]) > 100:  # noqa: PLR2004 - per cent
        raise typer.BadParameter(f"{text!r} is no share: write 20%")
    return float(found[1]) / 100


def _reason(text: str) -> str:
    if len(text) > _REASON_MAX or "\0" in text:
        raise typer.BadParameter(f"at most {_REASON_MAX} characters")
    return text


Login = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="KEY",
        help="A key that `scooter login` kept: alice.laptop; it is remembered. Default: the "
        "bundle that SCOOTER_OPERATOR_BUNDLE names, else the key that was used last.",
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The bundle of a key, not kept.")
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="End once the gateway has recorded it, or refused it.")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON lines: one object a move.")]


def _common(
    scooter_ids: Annotated[
        list[str] | None,
        typer.Argument(parser=SCOOTER_ID, metavar="ID…", help="Scooters' ids: SC-0001."),
    ] = None,
    *,
    tags: OnlyTags = None,
    login: Login = None,
    key_file: KeyFile = None,
    ttl: Annotated[
        timedelta | None,
        typer.Option(
            parser=DURATION,
            metavar="DURATION",
            help="How long the command counts: 10s. Default, and the most: as the command has it.",
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(parser=_reason, metavar="TEXT", help="Why; it is kept with the command."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if the battery is low or the lock not locked.")
    ] = False,
    no_wait: NoWait = False,
    wait: Annotated[
        timedelta | None,
        typer.Option(
            parser=DURATION, metavar="DURATION", help="Wait no longer than this for the end."
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Requests a second, at most.")
    ] = 100.0,
    at_once: Annotated[
        int, typer.Option(min=1, max=1000, help="Commands under way at the same time, at most.")
    ] = 100,
    abort_at: Annotated[
        float,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            show_default="50%",
            help="Ask for no more once more than this share did not succeed, of ten or more. "
            "100%: never.",
        ),
    ] = 0.5,
    yes: Yes = False,
    as_json: JsonLines = False,
) -> dict[str, Any]:
    return locals()


def orders(own: Callable[..., Params]) -> Callable[..., None]:
    """The command of a verb: its name is the contract's, its help the docstring, what it takes
    beside the common options its arguments, and its parameters what it returns.
    """
    mine = inspect.signature(own).parameters
    scooter_ids, *options = inspect.signature(_common).parameters.values()

    def verb(**given: Any) -> None:  # noqa: ANN401 - as the signature says
        params = own(**{name: given.pop(name) for name in mine})
        _order(own.__name__, params, **_common(**given))

    verb.__name__, verb.__doc__ = own.__name__, own.__doc__
    verb.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [scooter_ids, *mine.values(), *options]
    )
    return verb


def _order(
    command: str,
    params: Params,
    *,
    scooter_ids: Sequence[str] | None,
    tags: Sequence[str] | None,
    login: str | None,
    key_file: Path | None,
    ttl: timedelta | None,
    no_wait: bool,
    wait: timedelta | None,
    yes: bool,
    abort_at: float,
    **plain: Any,  # noqa: ANN401 - what an Order has under the same name
) -> None:
    """Raises CommandFailed unless it succeeded."""
    _check(command, ids=scooter_ids, tags=tags, ttl=ttl, wait=wait)
    from devices.contract.commands import check_params
    from gateway.console.commanding_order import Order

    checked = check_params(command, params)
    ids = _ids(scooter_ids, tags)
    _ask_person(command, ids, by_tag=bool(tags), yes=yes)
    order = Order(
        command=command,
        params=checked,
        scooter_ids=ids,
        ttl_s=ttl.total_seconds() if ttl else None,
        waits=not no_wait,
        wait_s=wait.total_seconds() if wait else None,
        abort_above=abort_at,
        **plain,
    )
    carry_out(order, login=login, key_file=key_file)


def carry_out(order: Any, *, login: str | None, key_file: Path | None) -> None:  # noqa: ANN401 - an Order
    """With which key, as the only command that uses it."""
    from gateway.console import commanding, operator_key
    from gateway.settings import read_settings

    key = operator_key.choose(login, key_file, read_settings().operator_bundle)
    with operator_key.held(key.login):
        run(commanding.give(order, key))


def _check(
    command: str,
    *,
    ids: Sequence[str] | None,
    tags: Sequence[str] | None,
    ttl: timedelta | None,
    wait: timedelta | None,
) -> None:
    from devices.contract.commands import COMMANDS

    if bool(ids) == bool(tags):
        raise typer.BadParameter("name scooters by ID or by --tag: one of the two")
    most_s = COMMANDS[command].ttl_s
    if ttl is not None and not 1 <= ttl.total_seconds() <= most_s:
        raise typer.BadParameter(f"--ttl: {command} counts for 1 s to {most_s} s")
    if wait is not None and not wait:
        raise typer.BadParameter("--wait: longer than nothing; --no-wait does not wait for the end")


def _ids(ids: Sequence[str] | None, tags: Sequence[str] | None) -> list[str]:
    if ids:
        return list(dict.fromkeys(ids))
    from gateway.console.commanding_scooters import tagged

    return run(tagged(tags or ()))


def _ask_person(command: str, ids: Sequence[str], *, by_tag: bool, yes: bool) -> None:
    is_many = by_tag or len(ids) > _MANY
    if is_many or command in _DRASTIC or (command in _OPENS and len(ids) > 1):
        confirm(f"{command.replace('_', '-')} {named(ids)}?", yes=yes)
