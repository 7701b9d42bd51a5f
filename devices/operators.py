"""Which operators exist, what each may command, and the keys they log in with, in Postgres."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from broker.errors import FleetError
from devices.access_audit import note
from devices.contract.commands import COMMANDS
from devices.scooters import RESERVED, tags_problem

ANY: Final = "*"
"""Any command, or any scooter whatever its tags."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")

_OPERATORS = """
    SELECT operator, standing, registered_at, standing_at,
        coalesce(array_agg(command || ' ' || tag ORDER BY command, tag)
            FILTER (WHERE command IS NOT NULL), '{}') AS rights
    FROM operators LEFT JOIN operator_rights USING (operator)
    WHERE $1::text IS NULL OR operator = $1
    GROUP BY operator ORDER BY operator
"""
_KEYS = """
    SELECT login, operator, standing, generation, registered_at, credential_at
    FROM operator_keys WHERE $1::text IS NULL OR operator = $1 ORDER BY login
"""
_LOCKED = "SELECT standing FROM operators WHERE operator = $1 FOR UPDATE"
_LOCKED_KEY = "SELECT standing FROM operator_keys WHERE login = $1 FOR UPDATE"
_ADD = """
    INSERT INTO operators (operator) VALUES ($1)
    ON CONFLICT (operator) DO UPDATE SET standing = 'active', standing_at = now()
    WHERE operators.standing = 'revoked'
    RETURNING operator
"""
_GRANT = """
    INSERT INTO operator_rights (operator, command, tag)
    SELECT $1, command, tag FROM unnest($2::text[]) AS c (command), unnest($3::text[]) AS t (tag)
    ON CONFLICT DO NOTHING
    RETURNING command, tag
"""
_UNGRANT = """
    DELETE FROM operator_rights WHERE operator = $1 AND command = ANY ($2) AND tag = ANY ($3)
    RETURNING command, tag
"""
_REVOKE = "UPDATE operators SET standing = 'revoked', standing_at = now() WHERE operator = $1"
_REVOKE_KEYS = """
    UPDATE operator_keys SET standing = 'revoked', standing_at = now(), password_hash = NULL
    WHERE (operator = $1 OR login = $2) AND standing = 'active'
    RETURNING login
"""
_DROP_RIGHTS = "DELETE FROM operator_rights WHERE operator = $1"
# The generation goes on from a revoked key of that name.
_SET_KEY = """
    INSERT INTO operator_keys (login, operator, password_hash) VALUES ($1, $2, $3)
    ON CONFLICT (login) DO UPDATE SET
        standing = 'active', password_hash = excluded.password_hash, credential_at = now(),
        generation = operator_keys.generation + 1,
        standing_at = CASE WHEN operator_keys.standing = 'active' THEN operator_keys.standing_at
                           ELSE now() END
    RETURNING generation
"""


class Right(NamedTuple):
    """A command that may be sent to scooters with a tag; `*` stands for any."""

    command: str
    tag: str


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator; revoked ones are kept, with neither rights nor active keys."""

    operator: str
    is_active: bool
    rights: tuple[Right, ...]
    registered_at: datetime
    standing_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """One login of an operator; `generation` grows with each secret."""

    login: str
    operator: str
    is_active: bool
    generation: int
    registered_at: datetime
    credential_at: datetime


class OperatorError(FleetError):
    """What was asked for an operator or a key cannot be done."""

    exit_code = 4


class UnknownOperator(FleetError):
    """There is no such operator or key, or it is revoked."""

    exit_code = 3


def parse_login(login: str) -> tuple[str, str] | None:
    """The operator and the name of the key of `alice.laptop`; None for anything else."""
    operator, dot, key = login.partition(".")
    if dot and _NAME.fullmatch(operator) and _NAME.fullmatch(key) and operator not in RESERVED:
        return operator, key
    return None


class Operators:
    """The operators in Postgres; each change and its audit are one transaction.

    Methods raise what the driver raises when Postgres is away.
    """

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - an asyncpg.Pool; it has no types
        self._pool = pool

    async def add(self, operator: str, *, by: str) -> Operator:
        """Make an operator known, without rights and keys; a revoked one begins anew.

        Raises OperatorError when the name cannot be one or is taken.
        """
        if not _NAME.fullmatch(operator):
            raise OperatorError(
                f"{operator!r} is no name of an operator: up to 31 of a-z, 0-9, _ and -, "
                "the first a letter or digit"
            )
        if operator in RESERVED:
            raise OperatorError(f"the name {operator} is reserved for an account of the broker")
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(_ADD, operator):
                raise OperatorError(f"operator {operator} exists")
            await note(connection, "add", {operator: {}}, kind="operator", by=by)
            return _operator(await connection.fetchrow(_OPERATORS, operator))

    async def get(self, operator: str) -> Operator | None:
        """One operator, also a revoked one; None if it is not known."""
        row = await self._pool.fetchrow(_OPERATORS, operator)
        return _operator(row) if row else None

    async def list(self) -> Sequence[Operator]:
        """All of them by name, also the revoked."""
        return [_operator(row) for row in await self._pool.fetch(_OPERATORS, None)]

    async def grant(
        self, operator: str, commands: Sequence[str], tags: Sequence[str] = (ANY,), *, by: str
    ) -> Operator:
        """Let an operator send each of `commands` to scooters with any of `tags`."""
        return await self._change_rights(_GRANT, "grant", operator, (commands, tags), by=by)

    async def ungrant(
        self, operator: str, commands: Sequence[str], tags: Sequence[str] = (ANY,), *, by: str
    ) -> Operator:
        """Take just these rights away: a right to `*` is one of its own."""
        return await self._change_rights(_UNGRANT, "ungrant", operator, (commands, tags), by=by)

    async def _change_rights(
        self,
        statement: str,
        action: str,
        operator: str,
        rights: tuple[Sequence[str], Sequence[str]],
        *,
        by: str,
    ) -> Operator:
        commands, tags = rights
        if wrong := [each for each in commands if each != ANY and each not in COMMANDS]:
            known = ", ".join(sorted(COMMANDS))
            raise OperatorError(f"there is no command {wrong[0]!r}: one of {known}, or * for any")
        if problem := tags_problem(tuple(tag for tag in tags if tag != ANY)):
            raise OperatorError(problem)
        async with self._pool.acquire() as connection, connection.transaction():
            await _must_be_active(connection, operator)
            rows = await connection.fetch(statement, operator, list(commands), list(tags))
            if rows:
                detail = {"rights": [f"{row['command']} {row['tag']}" for row in rows]}
                await note(connection, action, {operator: detail}, kind="operator", by=by)
            return _operator(await connection.fetchrow(_OPERATORS, operator))

    async def revoke(self, operator: str, *, by: str, reason: str | None = None) -> Sequence[str]:
        """End an operator's access with all rights and keys; the logins that were active.

        Repeating it changes nothing. Raises UnknownOperator if there never was one.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            standing = await connection.fetchval(_LOCKED, operator)
            if standing is None:
                raise UnknownOperator(f"there is no operator {operator}")
            if standing == "revoked":
                return []
            logins = [row[0] for row in await connection.fetch(_REVOKE_KEYS, operator, None)]
            await connection.execute(_DROP_RIGHTS, operator)
            await connection.execute(_REVOKE, operator)
            detail = {operator: {"keys": logins}}
            await note(connection, "revoke", detail, kind="operator", by=by, reason=reason)
            ended = {login: dict[str, object]() for login in logins}
            await note(connection, "revoke", ended, kind="key", by=by, reason=reason)
            return logins

    async def add_key(self, login: str, password_hash: str, *, by: str) -> int:
        """A new key `alice.laptop`; its generation. A revoked name may be used again.

        Raises OperatorError when such a key is active, UnknownOperator without its operator.
        """
        return await self._set_key(login, password_hash, must_be_active=False, by=by)

    async def rotate_key(self, login: str, password_hash: str, *, by: str) -> int:
        """Replace the secret of an active key; its generation. Raises UnknownOperator."""
        return await self._set_key(login, password_hash, must_be_active=True, by=by)

    async def _set_key(
        self, login: str, password_hash: str, *, must_be_active: bool, by: str
    ) -> int:
        parts = parse_login(login)
        if parts is None:
            raise OperatorError(f"{login!r} is no key: an operator, a dot and a name, alice.laptop")
        async with self._pool.acquire() as connection, connection.transaction():
            await _must_be_active(connection, parts[0])
            is_active = await connection.fetchval(_LOCKED_KEY, login) == "active"
            if must_be_active and not is_active:
                raise UnknownOperator(f"there is no active key {login}")
            if is_active and not must_be_active:
                raise OperatorError(f"key {login} exists: rotate or revoke it")
            generation = int(await connection.fetchval(_SET_KEY, login, parts[0], password_hash))
            action = "rotate" if is_active else "add"
            detail = {login: {"generation": generation}}
            await note(connection, action, detail, kind="key", by=by)
            return generation

    async def revoke_key(self, login: str, *, by: str, reason: str | None = None) -> bool:
        """End one key; False if it was revoked already. Raises UnknownOperator."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(_LOCKED_KEY, login) is None:
                raise UnknownOperator(f"there is no key {login}")
            ended = await connection.fetch(_REVOKE_KEYS, None, login)
            if ended:
                await note(connection, "revoke", {login: {}}, kind="key", by=by, reason=reason)
            return bool(ended)

    async def keys(self, operator: str | None = None) -> Sequence[Key]:
        """The keys of one operator, or of all, also the revoked."""
        return [
            Key(
                login=row["login"],
                operator=row["operator"],
                is_active=row["standing"] == "active",
                generation=row["generation"],
                registered_at=row["registered_at"],
                credential_at=row["credential_at"],
            )
            for row in await self._pool.fetch(_KEYS, operator)
        ]


async def _must_be_active(connection: Any, operator: str) -> None:  # noqa: ANN401 - no types
    standing = await connection.fetchval(_LOCKED, operator)
    if standing is None:
        raise UnknownOperator(f"there is no operator {operator}: `scooter operators add`")
    if standing == "revoked":
        raise UnknownOperator(f"operator {operator} is revoked: `scooter operators add` it again")


def _operator(row: Any) -> Operator:  # noqa: ANN401 - asyncpg has no types
    return Operator(
        operator=row["operator"],
        is_active=row["standing"] == "active",
        rights=tuple(Right(*right.split(" ", 1)) for right in row["rights"]),
        registered_at=row["registered_at"],
        standing_at=row["standing_at"],
    )
