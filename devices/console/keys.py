"""What the commands about operators' keys do: add, list, rotate, revoke."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from devices.bundle_places import place_for
from devices.console.access import NO_BUNDLES
from devices.console.exits import CommandFailed, Exit
from devices.console.handing import evidence, print_secrets, say_admitted, say_ended
from devices.console.output import Form, print_json, print_rows, print_table, talk, write
from devices.console.spans import counted
from devices.console.workshop import Workshop
from devices.keys import KeyChange, Keys
from devices.operators import Key, Operators
from devices.registry import Registry

_COLUMNS: Final = (
    *("login", "operator", "standing", "generation"),
    *("registered_at", "credential_at"),
)


@asynccontextmanager
async def key_desk(workshop: Workshop, *, makes_bundles: bool) -> AsyncGenerator[Keys, None]:
    """Ready to change keys; raises a FleetError that names a setting which is missing."""
    broker, facts = workshop.broker(), workshop.facts() if makes_bundles else NO_BUNDLES
    async with workshop.pool() as pool:
        yield Keys(operators=Operators(pool), registry=Registry(pool), broker=broker, facts=facts)


async def add(workshop: Workshop, login: str, *, out: Path | None, by: str, as_json: bool) -> None:
    """Raises UnknownOperator, and OperatorError for a key that is there."""
    async with key_desk(workshop, makes_bundles=True) as keys:
        change = await keys.add_key(login, by=by, place=place_for(out) if out else None)
        print_key_change(change, as_json=as_json)


async def rotate(
    workshop: Workshop, login: str, *, out: Path | None, by: str, as_json: bool
) -> None:
    """Raises UnknownOperator for a key that is not there, or revoked."""
    async with key_desk(workshop, makes_bundles=True) as keys:
        change = await keys.rotate_key(login, by=by, place=place_for(out) if out else None)
        print_key_change(change, as_json=as_json)


async def revoke(
    workshop: Workshop, login: str, *, reason: str | None, by: str, as_json: bool
) -> None:
    """Raises UnknownOperator for a key that never was."""
    async with key_desk(workshop, makes_bundles=False) as keys:
        change = await keys.revoke_key(login, by=by, reason=reason)
        print_key_change(change, as_json=as_json)


async def list_keys(workshop: Workshop, operator: str | None, form: Form) -> None:
    """Raises CommandFailed for an operator that is not known."""
    async with workshop.pool() as pool:
        operators = Operators(pool)
        if operator is not None and await operators.get(operator) is None:
            raise CommandFailed(f"there is no operator {operator}", code=Exit.NOT_FOUND)
        found = await operators.keys(operator)
    count = await print_rows(_rows(found), form, columns=_COLUMNS, brief=_COLUMNS)
    talk(counted(count, "key"))


def print_key_change(change: KeyChange, *, as_json: bool) -> None:
    """The secret once, or where it is; and the evidence."""
    if as_json:
        print_json(_document(change))
        write("", at_once=True)
        return
    if change.admitted is not None:
        talk(say_admitted(change.admitted))
    for ended in change.ended:
        talk(say_ended(ended))
    if change.bundle is not None:
        print_secrets([change.bundle])
    else:
        where = None if change.bundle_at is None else str(change.bundle_at)
        print_table(("login", "bundle"), [(login, where) for login in change.logins])


def _document(change: KeyChange) -> dict[str, Any]:
    return {
        "logins": list(change.logins),
        "bundle": None if change.bundle is None else change.bundle.document(),
        "bundle_at": None if change.bundle_at is None else str(change.bundle_at),
        "admitted": evidence(change.admitted),
        "ended": [asdict(each) for each in change.ended],
    }


async def _rows(found: Sequence[Key]) -> AsyncIterator[dict[str, Any]]:
    for each in found:
        yield {
            "login": each.login,
            "operator": each.operator,
            "standing": "active" if each.is_active else "revoked",
            "generation": each.generation,
            "registered_at": each.registered_at,
            "credential_at": each.credential_at,
        }
