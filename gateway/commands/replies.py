"""Replies leave from the outbox, at least once, in the order of the ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import asyncpg
import orjson

from gateway.commands import ledger
from gateway.errors import GatewayError
from gateway.links.downlink import Published
from gateway.outage import Outage
from gateway.storage.postgres import AWAY

PERIOD_S: Final = 1.0
"""Without being told, the outbox is looked at this often: another gateway may have filled it."""

_PAGE: Final = 200

# Whoever has the rows sends them; another gateway waits here and finds them gone.
_OLDEST: Final = """
    SELECT reply_id, topic, correlation, body FROM command_replies
    ORDER BY reply_id LIMIT $1 FOR UPDATE
"""
_DELETE: Final = "DELETE FROM command_replies WHERE reply_id = ANY ($1::bigint[])"


class Publisher(Protocol):
    """The way to the broker, as far as replies need it."""

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, correlation: bytes | None = None
    ) -> Published: ...


async def send_replies(
    pool: asyncpg.Pool,
    publisher: Publisher,
    *,
    wanted: asyncio.Event,
    may_send: Callable[[], Awaitable[object]],
) -> None:
    """Empty the outbox for ever, whenever `wanted` is set."""
    outage = Outage("replies", most_s=5.0)
    while True:
        await may_send()
        wanted.clear()
        try:
            while await send_page(pool, publisher):
                pass
        except (GatewayError, *AWAY) as error:  # type: ignore[misc]
            await asyncio.sleep(outage.away(str(error) or type(error).__name__))
            continue
        outage.back()
        try:
            async with asyncio.timeout(PERIOD_S):
                await wanted.wait()
        except TimeoutError:
            continue


async def send_page(pool: asyncpg.Pool, publisher: Publisher) -> int:
    """Publish the oldest replies and delete those that the broker has; returns how many.

    Raises what kept the first of the others from leaving.
    """
    async with pool.acquire() as connection, ledger.transaction(connection):
        rows = await connection.fetch(_OLDEST, _PAGE)
        # Each is written to the connection before the next begins, so their order is kept.
        results = await asyncio.gather(
            *(
                publisher.publish(
                    row["topic"],
                    orjson.dumps(orjson.loads(row["body"])),
                    qos=1,
                    correlation=row["correlation"],
                )
                for row in rows
            ),
            return_exceptions=True,
        )
        failures = [
            number for number, each in enumerate(results) if isinstance(each, BaseException)
        ]
        sent = rows[: failures[0]] if failures else rows
        await connection.execute(_DELETE, [row["reply_id"] for row in sent])
    if failures:
        failure = results[failures[0]]
        assert isinstance(failure, BaseException)  # noqa: S101 - narrows the type
        raise failure
    return len(sent)
