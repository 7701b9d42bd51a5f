"""What backend developers may read: user `reader` in Redis, role `scooter_reader` in Postgres."""

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

REDIS_READER: Final = "reader"
"""The user of Redis for backend developers."""

POSTGRES_READER: Final = "scooter_reader"
"""The role of Postgres for backend developers; whoever runs the server makes it."""

REDIS_READER_RIGHTS: Final = (
    "resetkeys %R~scooter:* %R~scooters:last_seen %R~scooters:position "
    "resetchannels &scooters:changes "
    "-@all +@read +@connection +@transaction "
    "+subscribe +unsubscribe +psubscribe +punsubscribe +time +acl|whoami "
    # These tell names of keys, whatever the keys above are.
    "-@dangerous -scan -randomkey -client|tracking"
)
"""The part of `user reader on >SECRET …` after the password: states, the two indexes and the
channel of changes; not the history stream, leases or copies of the gateway."""

Columns = tuple[str, ...]

ALL: Final[Columns] = ()
"""Every column, also one that a later migration adds."""

READABLE: Final[Mapping[str, Columns]] = {
    "command_moves": ALL,
    "commands": (
        "request_id",
        "issued",
        "operator",
        "login",
        "ref",
        "scooter_id",
        "command",
        "params",
        "ttl_s",
        "requested_at",
        "received_at",
        "expires_at",
        "reason",
        "force",
        "status",
        "detail",
        "moves",
        "moved_at",
        "sends",
    ),
    "late_reports": ALL,
    "scooter_events": ALL,
    "scooter_snapshots": ALL,
    "scooter_state": ALL,
    "scooters": (
        "scooter_id",
        "vehicle_id",
        "vehicle_type",
        "tags",
        "metadata",
        "standing",
        "generation",
        "registered_at",
        "standing_at",
        "credential_at",
    ),
}
"""Tables and columns of Postgres for backend developers; partitions are read through these."""

WITHHELD: Final = frozenset(
    {
        "access_audit",
        "command_numbers",
        "command_replies",
        "history_cursor",
        "history_keys",
        "operator_keys",
        "operator_rights",
        "operators",
        "rejects",  # the first bytes of whatever anybody sent
        "schema_migrations",
    }
)
"""The gateway's own business, and secrets."""

_ROLE_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_MAY_ENTER: Final = "SELECT has_schema_privilege($1, current_schema(), 'USAGE')"
_SCHEMA: Final = "SELECT quote_ident(current_schema())"
_GRANTED: Final = """
    SELECT c.relname, '' AS attname, acl.privilege_type
    FROM pg_class c, aclexplode(c.relacl) acl, pg_roles r
    WHERE c.relnamespace = current_schema()::regnamespace
        AND acl.grantee = r.oid AND r.rolname = $1
    UNION ALL
    SELECT c.relname, a.attname, acl.privilege_type
    FROM pg_class c, pg_attribute a, aclexplode(a.attacl) acl, pg_roles r
    WHERE c.relnamespace = current_schema()::regnamespace
        AND a.attrelid = c.oid AND NOT a.attisdropped
        AND acl.grantee = r.oid AND r.rolname = $1
"""
_COLUMNS: Final = """
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY ($1::text[])
        AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, a.attnum
"""

Grant = tuple[str, str, str]
"""Table, column ("" for all of them), privilege."""


async def grant_reads(connection: asyncpg.Connection, *, role: str = POSTGRES_READER) -> bool:
    """Let `role` read what it may, and take away whatever else it was granted on our tables.

    Returns whether there is such a role. Changes nothing that is right already.
    """
    if not await connection.fetchval(_ROLE_EXISTS, role):
        return False
    async with connection.transaction():
        if not await connection.fetchval(_MAY_ENTER, role):
            schema = await connection.fetchval(_SCHEMA)
            await connection.execute(f'GRANT USAGE ON SCHEMA {schema} TO "{role}"')
        wanted, granted = await _wanted(connection), await _granted(connection, role)
        for table in sorted({table for table, _, _ in wanted ^ granted}):
            await connection.execute(f'REVOKE ALL ON "{table}" FROM "{role}"')
            await _grant(connection, table, sorted(c for t, c, _ in wanted if t == table), role)
    return True


async def reads_differing(
    connection: asyncpg.Connection | asyncpg.Pool, *, role: str = POSTGRES_READER
) -> list[str] | None:
    """Tables whose rights are not as `grant_reads` leaves them; None when there is no such role."""
    if not await connection.fetchval(_ROLE_EXISTS, role):
        return None
    differing = await _wanted(connection) ^ await _granted(connection, role)
    return sorted({table for table, _, _ in differing})


async def _grant(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], role: str
) -> None:
    if columns:
        names = ", ".join(f'"{name}"' for name in columns if name)
        listed = f" ({names})" if names else ""
        await connection.execute(f'GRANT SELECT{listed} ON "{table}" TO "{role}"')


async def _wanted(connection: asyncpg.Connection | asyncpg.Pool) -> set[Grant]:
    """Of what is readable, what this database has."""
    rows = await connection.fetch(_COLUMNS, list(READABLE))
    return {
        (table, column if READABLE[table] else "", "SELECT")
        for table, column in rows
        if column in (READABLE[table] or (column,))
    }


async def _granted(connection: asyncpg.Connection | asyncpg.Pool, role: str) -> set[Grant]:
    return {tuple(row) for row in await connection.fetch(_GRANTED, role)}
