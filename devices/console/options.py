"""Options and arguments that the commands of devices and operators share; who gives the order."""

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from devices.console.frame import SCOOTER_ID
from devices.standing import Standing


class Presence(StrEnum):
    """What a scooter's presence can be; unknown: it never said anything."""

    ONLINE = "online"
    STALE = "stale"
    SLEEPING = "sleeping"
    OFFLINE = "offline"
    LOST = "lost"
    UNKNOWN = "unknown"


def _tag(text: str) -> str:
    from devices.scooters import tags_problem  # noqa: PLC0415 - not for `--help`

    if problem := tags_problem((text,)):
        raise typer.BadParameter(problem)
    return text


def _told(text: str) -> str:
    if not text.isprintable():
        raise typer.BadParameter(f"{text!r}: one line of printable text")
    return text


def _metadata(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(text, str):
        return text
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f'{text!r} is no JSON object: write \'{{"colour": "red"}}\'')
    return found


def _each_once(scooter_ids: list[str]) -> list[str]:
    return list(dict.fromkeys(scooter_ids))


ScooterIds = Annotated[
    list[str],
    typer.Argument(
        parser=SCOOTER_ID, callback=_each_once, metavar="ID…", help="Scooters' ids: SC-0001."
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", parser=_tag, metavar="TAG", help="May be given more than once."),
]
OnlyTags = Annotated[
    list[str] | None,
    typer.Option("--tag", parser=_tag, metavar="TAG", help="Only with this tag; repeated: each."),
]
TagsToAdd = Annotated[
    list[str] | None,
    typer.Option("--add", parser=_tag, metavar="TAG", help="May be given more than once."),
]
TagsToRemove = Annotated[
    list[str] | None, typer.Option("--remove", metavar="TAG", help="May be given more than once.")
]
OnlyStandings = Annotated[
    list[Standing] | None, typer.Option("--standing", help="Only in this one; repeated: in either.")
]
Presences = Annotated[
    list[Presence] | None, typer.Option("--presence", help="Only with it; repeated: with either.")
]
VehicleType = Annotated[
    str,
    typer.Option("--vehicle-type", metavar="TYPE", help="As MDS 2.0 has them: scooter_seated, …"),
]
Metadata = Annotated[
    Mapping[str, Any] | None,
    typer.Option("--metadata", parser=_metadata, metavar="JSON", help="An object to keep with it."),
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
    typer.Option(
        "--by",
        parser=_told,
        metavar="NAME",
        help="Who the audit names. Default: you, at this host.",
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", parser=_told, metavar="TEXT", help="Why; it is kept in the audit."),
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


def named(scooter_ids: Sequence[str]) -> str:
    """A few by name, many by number: for a question."""
    if len(scooter_ids) <= 3:  # noqa: PLR2004 - as many as a person reads at a glance
        return ", ".join(scooter_ids)
    return f"{len(scooter_ids)} scooters ({scooter_ids[0]} … {scooter_ids[-1]})"
