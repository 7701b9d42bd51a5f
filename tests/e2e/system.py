"""Own servers, gateways beside them, and questions to both stores."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import asyncpg
import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from gateway.local.servers import Servers, free_port
from gateway.telemetry.columns import WHOLE_STATE
from gateway.telemetry.state_store import DIRTY, HISTORY, INTERNAL, SCOOTER
from tests.eventually import eventually
from tests.fleet import Fleet
from tests.gateway_process import GatewayProcess
from tests.registration import register

PERIOD_S: Final = 1.0
LEASE_S: Final = 1.5
"""Short, so that a gateway that is started after a SIGKILL does not wait long for its name."""

_CHUNK: Final = 2000


class System:
    """Three servers, the gateways that were started on them, and clients for the test itself."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
        self._folder = folder
        self.gateways: list[GatewayProcess] = []
        # Its connections may be those of a Redis that was killed since.
        again = Retry(ConstantBackoff(0.1), 20)
        self.redis = Redis.from_url(servers.redis_admin_url, retry=again)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for gateway in self.gateways:
            await gateway.kill()
        await self.redis.aclose()

    @property
    def mqtt_port(self) -> int:
        return self.servers.mqtt_port

    async def gateway(self, instance: str = "gateway-1", **settings: object) -> GatewayProcess:
        """Start one; wait for `ready()` yourself."""
        return await self.gateway_of(None, instance, **settings)

    async def gateway_of(
        self, code: Path | None, instance: str, /, **settings: object
    ) -> GatewayProcess:
        """Start one of another release, whose folder this is."""
        servers = self.servers
        number = len(self.gateways)
        process = GatewayProcess(
            {
                "instance": instance,
                "mqtt_host": servers.mqtt_host,
                "mqtt_port": servers.mqtt_port,
                "mqtt_username": servers.mqtt_username,
                "mqtt_password": servers.mqtt_password,
                "redis_url": servers.redis_url,
                "postgres_url": servers.postgres_url,
                "snapshot_period_s": PERIOD_S,
                "lease_s": LEASE_S,
                "metrics_port": free_port(),
                **settings,
            },
            log_file=self._folder / f"gateway-{number}.log",
            code=code,
        )
        self.gateways.append(process)
        return await process.start()

    async def register(self, *ids: str) -> None:
        """Have scooters heard; a gateway that runs already learns of them a moment later."""
        await register(self.servers.postgres_url, ids)

    async def fleet(self, prefix: str, size: int) -> Fleet:
        """A fleet that is registered."""
        fleet = Fleet(prefix, size)
        await self.register(*fleet.ids)
        return fleet

    async def states(self, ids: Sequence[str]) -> list[dict[str, str]]:
        """The states in Redis, without what is for the scripts alone; empty where there is none."""
        found: list[dict[str, str]] = []
        for start in range(0, len(ids), _CHUNK):
            async with self.redis.pipeline(transaction=False) as pipe:
                for scooter_id in ids[start : start + _CHUNK]:
                    pipe.hgetall(f"{SCOOTER}{scooter_id}")
                answers: list[Any] = await pipe.execute()
            found += [
                {
                    name.decode(): value.decode()
                    for name, value in fields.items()
                    if name.decode() not in INTERNAL
                }
                for fields in answers
            ]
        return found

    async def laps(self, ids: Sequence[str]) -> list[int]:
        """The number of the report that each state in Redis comes from; 0 where there is none."""
        found: list[int] = []
        for start in range(0, len(ids), _CHUNK):
            async with self.redis.pipeline(transaction=False) as pipe:
                for scooter_id in ids[start : start + _CHUNK]:
                    pipe.hget(f"{SCOOTER}{scooter_id}", "odometer_m")
                found += [int(text or 0) for text in await pipe.execute()]
        return found

    async def caught_up(self, fleet: Fleet, *, within_s: float = 60.0) -> None:
        """Until every state is its scooter's last report."""

        async def probe() -> bool:
            return set(await self.laps(fleet.ids)) == {fleet.laps}

        try:
            await eventually(probe, within_s=within_s, what=f"every state at report {fleet.laps}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {await self._behind(fleet)}") from None

    async def _behind(self, fleet: Fleet) -> str:
        """How many are at which report, and what the gateways say of it."""
        lines = [f"scooters by report {dict(Counter(await self.laps(fleet.ids)))}"]
        for gateway in self.gateways:
            page = await gateway.page() if gateway.is_running else None
            if page is not None:
                counts = [line for line in page.text.splitlines() if "_deliveries" in line]
                lines += [str(await gateway.problems()), *counts]
            lines.append(gateway.log[-2000:])
        return "\n".join(lines)

    async def dirty(self) -> int:
        return int(await self.redis.zcard(DIRTY))

    async def clean(self, *, within_s: float = 60.0) -> None:
        """Until everything in Redis is in Postgres: no dirty scooter, no history left."""

        async def probe() -> bool:
            return not await self.redis.zcard(DIRTY) and not await self.redis.xlen(HISTORY)

        await eventually(probe, within_s=within_s, what="an empty dirty set and history")

    @asynccontextmanager
    async def postgres(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.servers.postgres_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def ask(self, question: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.postgres() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(question, *arguments)
            return rows

    async def assert_stored(self, fleet: Fleet) -> None:
        """Each scooter's last snapshot and its row in scooter_state are what Redis has."""
        states = dict(zip(fleet.ids, await self.states(fleet.ids), strict=True))
        stored = {
            row["scooter_id"]: (row["version"], orjson.loads(row["fields"]))
            for row in await self.ask(
                f"SELECT scooter_id, version, {WHOLE_STATE} AS fields FROM scooter_state"  # noqa: S608
            )
        }
        snapshots = {
            row["scooter_id"]: row
            for row in await self.ask(
                "SELECT DISTINCT ON (scooter_id) * FROM scooter_snapshots "
                "ORDER BY scooter_id, period_start DESC"
            )
        }
        for scooter_id, state in states.items():
            version, fields = stored[scooter_id]
            kept = {name: text for name, text in fields.items() if name not in INTERNAL}
            assert (version, kept) == (int(state["version"]), state)
            snapshot = snapshots[scooter_id]
            assert snapshot["version"] == version
            assert snapshot["odometer_m"] == float(state["odometer_m"])
            assert snapshot["lat"] == float(state["lat"])

    async def assert_no_row_twice(self) -> None:
        """One snapshot a scooter and period, no version written in two, one row an event."""
        twice = await self.ask(
            "SELECT scooter_id, period_start FROM scooter_snapshots "
            "GROUP BY 1, 2 HAVING count(*) > 1 "
            "UNION ALL SELECT scooter_id, min(period_start) FROM scooter_snapshots "
            "GROUP BY scooter_id, version HAVING count(*) > 1"
        )
        assert twice == []
        events = await self.ask(
            "SELECT scooter_id, event_id FROM scooter_events GROUP BY 1, 2 HAVING count(*) > 1"
        )
        assert events == []


async def until(done: asyncio.Event | asyncio.Task[Any], seconds: float) -> None:
    """Wait this long, or less when it is over before: a fault lasts, and nothing tells its end."""
    waited = asyncio.ensure_future(done.wait()) if isinstance(done, asyncio.Event) else done
    await asyncio.wait({waited}, timeout=seconds)
