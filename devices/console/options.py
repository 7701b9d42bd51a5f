"""Options and arguments that the commands of devices and operators share; who gives the order."""

import getpass
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from devices.console.frame import SCOOTER_ID


def _tag(text: str) -> str:
    from devices.scooters import tags_problem  # noqa: PLC0415 - not for `--help`

    if problem := tags_problem((text,)):
        raise typer.BadParameter(problem)
    return text


ScooterIds = Annotated[
    list[str], typer.Argument(parser=SCOOTER_ID, metavar="ID…", help="Scooters' ids: SC-0001.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", parser=_tag, metavar="TAG", help="May be given more than once."),
]
OnlyTags = Annotated[
    list[str] | None,
    typer.Option("--tag", parser=_tag, metavar="TAG", help="Only with this tag; repeated: each."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="Write bundles there, readable by you alone, instead of showing the secret: a folder, "
        "or one file if it ends in .json.",
    ),
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who the audit names. Default: you, at this host."),
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the audit.")
]


def actor(by: str | None) -> str:
    """Who gives the order, for the audit."""
    if by:
        return by
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
