"""The gateway's copy of the registry: asked for each delivery, kept by LISTEN, never by asking."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
from redis.asyncio import Redis

from devices.operators import ANY
from devices.standing import Standing
from gateway.errors import ServerAway, StartRefused
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.registry_keeper import MirrorKeeper
from gateway.registry_mirror import Copy, Mirror
from gateway.registry_source import (
    CHANNEL,
    WHOLE,
    Interned,
    Known,
    Reading,
    Rights,
    read_registry,
)
from gateway.storage.postgres import AWAY

PERIOD_S: Final = 10.0
"""What changed is asked for this often too, which proves that the connection lives."""

COALESCE_S: Final = 0.02
"""What an import tells in a row is read together."""

START_S: Final = 3.0
"""So long a Postgres that does not answer may keep a starting gateway from the copy in Redis."""


class RegistryCopy:
    """Every scooter's standing, generation and tags, and who may command what, in memory.

    `loaded` is set once something is known; from then on it works on what it knows, however
    long Postgres is away. Nothing here waits but `run`.
    """

    def __init__(
        self, pool: asyncpg.Pool, redis: Redis, *, metrics: Metrics, period_s: float = PERIOD_S
    ) -> None:
        self._pool = pool
        self._mirror = Mirror(redis)
        self._period_s = period_s
        self._interned = Interned()
        self._scooters: dict[str, Known] = {}
        self._rights = Rights({}, {})
        self._reading: Reading | None = None
        self._read_at = time.time()
        self._keeper = MirrorKeeper(self._mirror)
        self._size = metrics.registry_scooters
        metrics.registry_age_s.set_function(self.age_s)
        self.loaded = asyncio.Event()

    def standing(self, scooter_id: str) -> Standing | None:
        """Its standing; None for one that is not known."""
        known = self._scooters.get(scooter_id)
        return known.standing if known is not None else None

    def tags(self, scooter_id: str) -> frozenset[str]:
        """Its tags; none for one that is not known."""
        known = self._scooters.get(scooter_id)
        return known.tags if known is not None else frozenset()

    def generation(self, scooter_id: str) -> int:
        """The generation of its credential; 0 for one that never had any."""
        known = self._scooters.get(scooter_id)
        return known.generation if known is not None else 0

    def operator_of(self, login: str) -> str | None:
        """The operator whose active key this is; None when there is none."""
        return self._rights.keys.get(login)

    def may(self, login: str, command: str, tags: frozenset[str]) -> bool:
        """Whether a key may send `command` to a scooter with these tags."""
        granted = self._rights.granted.get(self.operator_of(login) or "", frozenset())
        return any(
            right in granted
            for name in (command, ANY)
            for right in ((name, tag) for tag in (ANY, *tags))
        )

    def age_s(self) -> float:
        """Seconds since Postgres last confirmed it; before anything is known, since the start."""
        return max(0.0, time.time() - self._read_at)

    async def run(self) -> None:
        """Keep the copy, and its mirror in Redis, for ever.

        Raises StartRefused when the registry's tables are missing.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="registry in memory")
            group.create_task(self._keeper.run(), name="registry in redis")

    async def _follow(self) -> None:
        outage = Outage("registry in postgres", most_s=5.0)
        while True:
            try:
                await self._listen(outage)
            except asyncpg.UndefinedTableError:
                raise StartRefused(
                    ["the registry's tables are missing: run `scooter migrate`"]
                ) from None
            except AWAY as error:
                wait_s = outage.away(str(error) or type(error).__name__)
            if not self.loaded.is_set():
                await self._from_mirror()
            await asyncio.sleep(wait_s)

    async def _listen(self, outage: Outage) -> None:
        """Follow Postgres on one connection; ends with what the driver raises when it is lost."""
        told, whole = asyncio.Event(), asyncio.Event()

        def on_change(*notification: object) -> None:
            if notification[-1] == WHOLE:
                whole.set()
            told.set()

        async with self._connection() as connection:
            connection.add_termination_listener(lambda _connection: told.set())
            await connection.add_listener(CHANNEL, on_change)
            whole.set()  # what was told before is not known
            while True:
                told.clear()
                since = None if whole.is_set() else self._reading
                whole.clear()
                self._take(await read_registry(connection, self._interned, since=since))
                outage.back()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._period_s):
                        await told.wait()
                        await asyncio.sleep(COALESCE_S)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[asyncpg.Connection, None]:
        """A connection of its own, which nobody else gets afterwards."""
        timeout_s = None if self.loaded.is_set() else START_S
        connection = await self._pool.acquire(timeout=timeout_s)
        try:
            yield connection
        finally:
            with suppress(asyncpg.InterfaceError):  # it is gone already
                connection.terminate()
            await self._pool.release(connection)

    def _take(self, reading: Reading) -> None:
        changed = None
        if reading.is_whole:
            self._scooters = reading.scooters
        else:
            known = self._scooters
            changed = {
                each: new for each, new in reading.scooters.items() if known.get(each) != new
            }
            known |= changed
        self._rights = reading.rights
        self._reading = reading
        self._know(time.time())
        copy = Copy(reading.stamp, self._scooters, self._rights, self._read_at)
        self._keeper.take(copy, changed, began_at=reading.began_at)

    def _know(self, read_at: float) -> None:
        self._read_at = read_at
        self._size.set(len(self._scooters))
        self.loaded.set()

    async def _from_mirror(self) -> None:
        with suppress(ServerAway):
            copy = await self._mirror.read(self._interned)
            if copy is not None:
                self._scooters, self._rights = dict(copy.scooters), copy.rights
                self._know(copy.read_at)
