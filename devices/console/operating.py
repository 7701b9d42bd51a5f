"""What the commands about operators do: add, grant, ungrant, list, revoke."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from devices.console.keys import key_desk, print_key_change
from devices.console.output import Form, print_json, print_rows, print_table, talk
from devices.console.spans import counted
from devices.console.workshop import Workshop
from devices.operators import Operator, Operators

_COLUMNS: Final = ("operator", "standing", "rights", "keys", "registered_at", "standing_at")


async def add(workshop: Workshop, operator: str, *, by: str, as_json: bool) -> None:
    """Raises OperatorError for a name that cannot be or is there."""
    async with workshop.pool() as pool:
        added = await Operators(pool).add(operator, by=by)
    _print(added, as_json=as_json)
    talk(f"next: `scooter operators grant {operator} …`, `scooter operators key add {operator}.…`")


async def grant(
    workshop: Workshop,
    operator: str,
    commands: Sequence[str],
    tags: Sequence[str],
    *,
    by: str,
    as_json: bool,
) -> None:
    """Raises UnknownOperator, and OperatorError for what is no command."""
    async with workshop.pool() as pool:
        changed = await Operators(pool).grant(operator, commands, tags, by=by)
    _print(changed, as_json=as_json)


async def ungrant(
    workshop: Workshop,
    operator: str,
    commands: Sequence[str],
    tags: Sequence[str],
    *,
    by: str,
    as_json: bool,
) -> None:
    """Raises UnknownOperator; a right that was not there is none to take."""
    async with workshop.pool() as pool:
        changed = await Operators(pool).ungrant(operator, commands, tags, by=by)
    _print(changed, as_json=as_json)


async def revoke(
    workshop: Workshop, operator: str, *, reason: str | None, by: str, as_json: bool
) -> None:
    """Raises UnknownOperator for one that never was."""
    async with key_desk(workshop, makes_bundles=False) as keys:
        change = await keys.revoke_operator(operator, by=by, reason=reason)
        print_key_change(change, as_json=as_json)
    talk(f"operator {operator} is revoked: neither rights nor keys are left")


async def list_operators(workshop: Workshop, form: Form) -> None:
    """All of them, also the revoked."""
    async with workshop.pool() as pool:
        operators = Operators(pool)
        found, keys = await operators.list(), await operators.keys()
    active = [each for each in keys if each.is_active]
    rows = [
        {**_row(each), "keys": [key.login for key in active if key.operator == each.operator]}
        for each in found
    ]
    columns = [name for name in _COLUMNS if name != "registered_at"]
    count = await print_rows(_as_asked(rows, form), form, columns=_COLUMNS, brief=columns)
    talk(counted(count, "operator"))


async def _as_asked(rows: list[dict[str, Any]], form: Form) -> AsyncIterator[dict[str, Any]]:
    for row in rows:
        if form is Form.JSON:
            yield row
        else:
            yield row | {name: " ".join(row[name]) for name in ("rights", "keys")}


def _row(operator: Operator) -> dict[str, Any]:
    return {
        "operator": operator.operator,
        "standing": "active" if operator.is_active else "revoked",
        "rights": [f"{right.command}:{right.tag}" for right in operator.rights],
        "registered_at": operator.registered_at,
        "standing_at": operator.standing_at,
    }


def _print(operator: Operator, *, as_json: bool) -> None:
    row = _row(operator)
    if as_json:
        print_json(row)
    else:
        print_table(list(row), [list((row | {"rights": " ".join(row["rights"])}).values())])
