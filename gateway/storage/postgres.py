"""Postgres: open a pool, tell an outage from a bad row, and prove that the server will do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from gateway.storage.migrate import migrate, pending

__all__ = [
    "AWAY",
    "check_postgres",
    "is_bad_row",
    "migrate",
    "open_postgres",
    "pending",
    "transaction",
]

AWAY: Final[tuple[type[BaseException], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,  # 08
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby, or a disk that was full
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.TransactionRollbackError,  # 40
    asyncpg.InsufficientResourcesError,  # 53
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.OperatorInterventionError,  # 57
    asyncpg.PostgresSystemError,  # 58
    asyncpg.InvalidCachedStatementError,  # 0A000: a migration ran; the repeat prepares anew
    asyncpg.CheckViolationError,  # 23514 with no constraint named: a partition came meanwhile
)
"""Postgres cannot serve now: wait, and repeat the same thing. Ask `is_bad_row` first."""

_NO_ANSWER: Final = (
    asyncio.CancelledError,
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_OLDEST_VERSION: Final = 140_000

_TABLES_OF_OTHERS = """
    SELECT format('%I', c.relname) FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace
        AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND NOT pg_has_role(c.relowner, 'USAGE')
    ORDER BY 1
"""


def is_bad_row(error: BaseException) -> bool:
    """Whether the row is at fault: SQLSTATE class 22 or 23.

    The driver's own DataError, raised before anything is sent, says 22000.

    A row without a partition (23514 with no constraint named) is ours to mend, not the row's.
    """
    if isinstance(error, asyncpg.CheckViolationError):
        return error.constraint_name is not None
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in {"22", "23"}


@asynccontextmanager
async def open_postgres(
    url: str, *, connections: int = 10, timeout_s: float = 10.0, name: str = "scooter-gateway"
) -> AsyncGenerator[asyncpg.Pool, None]:
    """A pool of at most `connections`, opened without asking the server, so never refused.

    Every statement ends within `timeout_s`; a lock is waited for half as long. On leaving,
    connections get two seconds to end in order.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections,
        timeout=timeout_s,
        command_timeout=timeout_s,
        server_settings=_server_settings(timeout_s, name),
    )
    try:
        yield pool
    finally:
        await _close(pool)


@asynccontextmanager
async def transaction(
    connection: asyncpg.Connection,
    *,
    idle_s: float | None = None,
    **options: Any,  # noqa: ANN401 - as the driver takes them
) -> AsyncGenerator[None, None]:
    """A transaction, or a savepoint within one, that can be cancelled while Postgres is frozen.

    Postgres ends it, and frees its rows, when nothing is asked in it for `idle_s`.

    The driver's own would wait for the answer to its ROLLBACK, and turn a cancellation into a
    TimeoutError. Where no answer can be expected, this one drops the connection instead.
    """
    block = connection.transaction(**options)
    try:
        await block.start()
        if idle_s is not None:
            await connection.execute(
                f"SET LOCAL idle_in_transaction_session_timeout = {round(idle_s * 1000)}"
            )
        yield
        await block.commit()
    except _NO_ANSWER:
        with suppress(asyncpg.InterfaceError):  # an inner savepoint dropped it already
            connection.terminate()
        raise
    except BaseException:
        with suppress(asyncpg.InterfaceError):  # the connection died with what was raised
            await block.rollback()
        raise


async def _close(pool: asyncpg.Pool) -> None:
    try:
        async with asyncio.timeout(2.0):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def _server_settings(timeout_s: float, name: str) -> dict[str, str]:
    timeout_ms = int(timeout_s * 1000)
    return {
        "application_name": name,
        "timezone": "UTC",
        "statement_timeout": str(timeout_ms),
        "lock_timeout": str(timeout_ms // 2),
        "idle_in_transaction_session_timeout": str(timeout_ms * 2),
        # The locks of a gateway that vanished are freed within about a minute.
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }


async def check_postgres(pool: asyncpg.Pool) -> list[str]:
    """What would lose data, each with how to mend it; raises one of AWAY when it is away."""
    findings = []
    async with pool.acquire() as connection:
        if int(await connection.fetchval("SHOW server_version_num")) < _OLDEST_VERSION:
            version = await connection.fetchval("SHOW server_version")
            findings.append(f"Postgres is {version}: install version 14 or newer")
        if await connection.fetchval("SHOW synchronous_commit") in {"off", "local"}:
            findings.append(
                "synchronous_commit is not on, so a crash loses events that have a receipt: "
                "set it to on in postgresql.conf and reload"
            )
        if not await connection.fetchval("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
            findings.append(
                "this role may not create partitions: GRANT CREATE ON SCHEMA to it as the owner"
            )
        if tables := [row[0] for row in await connection.fetch(_TABLES_OF_OTHERS)]:
            findings.append(
                f"this role does not own {', '.join(tables)}: connect as the role that migrated, "
                "or make this one a member of it"
            )
        if names := await pending(connection):
            findings.append(f"{len(names)} migrations are not applied: run `scooter migrate`")
    return findings
