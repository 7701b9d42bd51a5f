"""Servers of the benchmark's own, and one measured run: a load, applied to the last report."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import asyncpg
import mqtt5
from redis.asyncio import Redis

from gateway.local.servers import Servers, free_port
from gateway.storage.migrate import migrate
from tests.benchmarks import baseline, upserts
from tests.benchmarks.accounting import CpuMeter
from tests.benchmarks.child import BenchmarkFailed, Child, publisher
from tests.benchmarks.load import BOOT, Load
from tests.certificates import Authority
from tests.command_line import environment
from tests.e2e.commanding import admit, grant
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess, Page
from tests.registration import register
from tests.services import servers_of_tests

NEVER_S: Final = 86_400
"""A snapshot period that does not end within a run: rounds are measured by themselves."""

STALLED_S: Final = 60.0

PROBE: Final = "probe-000000"
"""One scooter more than a load has: see `tests.benchmarks.latency`."""

Applied = Callable[["Load", Sequence[str]], Awaitable[bool]]
"""Whether the last report of each of these scooters can be read."""


class Beside(Protocol):
    """Publishes beside a load."""

    def start(self) -> None: ...

    async def stop(self) -> int:
        """Returns how many reports were published, all of them seen."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One load, from the first packet until all of it was applied."""

    messages: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    def cpu_us(self, name: str) -> float:
        """µs of CPU a message that one of the processes used."""
        return self.cpu_s[name] / self.messages * 1e6


class Subject:
    """A running gateway of ours, which counts its deliveries, or another one."""

    def __init__(self, process: GatewayProcess | Child) -> None:
        self.process = process
        self.is_ours = isinstance(process, GatewayProcess)

    async def kept(self, *outcomes: str) -> int:
        """Reports that ended so, once none is in flight; fails when its account is not balanced."""
        if not isinstance(self.process, GatewayProcess):
            return 0
        process = self.process

        async def settled() -> Page | None:
            # What is visible in Redis already may be settled a moment later.
            page = await process.balanced()
            return None if page.in_flight else page

        page = await eventually(settled, what="an empty account")
        return sum(map(page.outcome, outcomes))


class Stage:
    """Mosquitto, Redis and Postgres in a temporary folder, and what runs on them."""

    def __init__(self, servers: Servers, redis: Redis, folder: Path, ca_file: Path) -> None:
        self.servers = servers
        self.redis = redis
        self.ca_file = str(ca_file)
        self._folder = folder
        self.log = (folder / "children.log").open("ab")
        self._laps: dict[str, int] = {}
        self._registered: set[str] = set()

    def pids(self) -> dict[str, int]:
        servers = self.servers
        return {
            "mosquitto": servers.mosquitto.pid,
            "redis": servers.redis.pid,
            "postgres": servers.postgres.pid,
        }

    @asynccontextmanager
    async def gateway(
        self, *, tls: bool = False, instance: str = "bench", **changes: object
    ) -> AsyncIterator[Subject]:
        """Our gateway, ready; its broker sessions end with it. A setting of None is left out."""
        settings = self._settings(instance, tls=tls) | changes
        given = {name: value for name, value in settings.items() if value is not None}
        process = GatewayProcess(given, log_file=self._folder / "gateway.log")
        try:
            yield Subject(await (await process.start()).ready(within_s=STALLED_S))
        finally:
            if process.is_running:
                await process.terminate()
            await self._forget_sessions(instance)

    @asynccontextmanager
    async def other(self, name: str) -> AsyncIterator[Subject]:
        """One of `tests.benchmarks.subject` that is subscribed; its broker session ends with it."""
        child = await self.child("tests.benchmarks.subject", name)
        try:
            await child.hear()
            yield Subject(child)
        finally:
            await child.stop()
            await self._forget_sessions("bench")

    async def child(self, module: str, *arguments: str) -> Child:
        """A process of ours with the settings of a gateway."""
        env = environment(self._settings("bench", tls=False))
        return await Child.start(module, *arguments, env=env, log=self.log)

    def load(self, prefix: str, scooters: int, *, laps: int = 1, **plan: float | None) -> Load:
        """The next `laps` reports of a fleet: numbers go on where its last load ended."""
        first = self._laps.get(prefix, 0) + 1
        self._laps[prefix] = first + laps - 1
        return Load(prefix=prefix, scooters=scooters, laps=laps, first_seq=first, **plan)  # type: ignore[arg-type]

    async def run(
        self,
        load: Load,
        subjects: Mapping[str, Subject],
        *,
        tls: bool = False,
        applied: Applied | None = None,
        beside: Beside | None = None,
    ) -> Run:
        """Publish a load and wait until all of it is applied; raises BenchmarkFailed if not.

        `applied` looks elsewhere than in Redis; `beside` publishes too while the load runs.
        """
        await self._register(load, subjects)
        # Of two gateways the one may take a scooter's later report before the other its earlier.
        outcomes = ("applied",) if len(subjects) == 1 else ("applied", "late")
        before = sum([await each.kept(*outcomes) for each in subjects.values()])
        if beside:
            beside.start()
        host, port = self.servers.mqtt_host, self.servers.mqtt_port
        if tls:
            port = self.servers.mqtt_tls_port or 0
        ca_file = self.ca_file if tls else None
        async with publisher(load, host=host, port=port, ca_file=ca_file, log=self.log) as source:
            pids = {name: each.process.pid for name, each in subjects.items()}
            meter = CpuMeter.start(self.pids() | pids | {"publisher": source.pid})
            began = time.perf_counter()
            source.say("go")
            await source.hear(within_s=600.0)
            is_ours = any(each.is_ours for each in subjects.values())
            look = applied or (self._in_states if is_ours else self._in_plain_hashes)
            await self.wait_for(lambda: look(load, load.scooter_ids()[-load.connections :]))
            seconds, used = time.perf_counter() - began, meter.used_s()
            messages = load.messages + (await beside.stop() if beside else 0)
        kept = sum([await each.kept(*outcomes) for each in subjects.values()]) - before
        if is_ours and kept != messages:
            raise BenchmarkFailed(f"{messages} published, {kept} {' or '.join(outcomes)}")
        if not await look(load, load.scooter_ids()):
            raise BenchmarkFailed("a scooter's last report was not applied")
        return Run(messages, seconds, used)

    async def _register(self, load: Load, subjects: Mapping[str, Subject]) -> None:
        """Have our gateways hear the load's scooters and the probe."""
        ours = [
            each.process for each in subjects.values() if isinstance(each.process, GatewayProcess)
        ]
        new = {PROBE, *load.scooter_ids()} - self._registered
        if not any(each.has_postgres for each in ours):
            return
        if new:
            await register(self.servers.postgres_url, new)
            self._registered |= new
        for process in ours:
            await process.knows(len(self._registered))

    async def admit(self, ids: Sequence[str]) -> None:
        """Scooters that are commanded, and an operator's key for it; before a gateway starts."""
        await admit(self.servers.postgres_url, ids)
        await grant(self.servers.postgres_url)
        self._registered |= set(ids)

    async def wait_for(self, is_there: Callable[[], Awaitable[bool]]) -> None:
        """Look every 10 ms; raises BenchmarkFailed after a minute."""
        give_up_at = time.perf_counter() + STALLED_S
        while not await is_there():
            if time.perf_counter() > give_up_at:
                raise BenchmarkFailed("the last reports were not applied within a minute")
            await asyncio.sleep(0.01)

    async def empty(self) -> None:
        """An empty Redis and Postgres."""
        await self.redis.flushall()
        connection = await asyncpg.connect(self.servers.postgres_url)
        try:
            await connection.execute(
                "TRUNCATE scooter_state, scooter_snapshots, late_reports, rejects, history_keys, "
                "baseline_reports, upserted_states"
            )
        finally:
            await connection.close()
        self._laps.clear()

    async def _in_states(self, load: Load, ids: Sequence[str]) -> bool:
        return await self._all_begin(ids, "report_order", f"{BOOT}:{load.last_seq}:")

    async def _in_plain_hashes(self, load: Load, ids: Sequence[str]) -> bool:
        return await self._all_begin(ids, "seq", str(load.last_seq))

    async def missing(self, load: Load) -> int:
        """Scooters whose last report is not in our state."""
        texts = await self._fields(load.scooter_ids(), "report_order")
        return sum(not text.startswith(f"{BOOT}:{load.last_seq}:") for text in texts)

    async def _all_begin(self, ids: Sequence[str], field: str, start: str) -> bool:
        return all(text.startswith(start) for text in await self._fields(ids, field))

    async def _fields(self, ids: Sequence[str], field: str) -> list[str]:
        pipe = self.redis.pipeline(transaction=False)
        for each in ids:
            pipe.hget(f"scooter:{each}", field)
        return [(text or b"").decode() for text in await pipe.execute()]

    def _settings(self, instance: str, *, tls: bool) -> dict[str, object]:
        servers = self.servers
        return {
            "instance": instance,
            "mqtt_host": servers.mqtt_host,
            "mqtt_port": servers.mqtt_tls_port if tls else servers.mqtt_port,
            "mqtt_username": servers.mqtt_username,
            "mqtt_password": servers.mqtt_password,
            "redis_url": servers.redis_url,
            "postgres_url": servers.postgres_url,
            "metrics_port": free_port(),
            "snapshot_period_s": NEVER_S,
            **({"mqtt_ca_file": self.ca_file} if tls else {}),
        }

    async def _forget_sessions(self, instance: str) -> None:
        for client_id in (f"{instance}/telemetry", "gateway/events", "gateway/control"):
            await asyncio.to_thread(self._forget_session, client_id)

    def _forget_session(self, client_id: str) -> None:
        """End a broker session, or the broker would queue every later load for it."""
        packet = mqtt5.ConnectPacket(
            client_id,
            username=self.servers.mqtt_username,
            password=self.servers.mqtt_password.encode(),
            clean_start=True,
            session_expiry_interval=0,
        )
        address = (self.servers.mqtt_host, self.servers.mqtt_port)
        with socket.create_connection(address, timeout=10.0) as connection:
            connection.sendall(packet.write())
            connection.recv(64)
            connection.sendall(mqtt5.DisconnectPacket().write())


@asynccontextmanager
async def open_stage(folder: Path) -> AsyncIterator[Stage]:
    """Servers with a second listener for TLS, migrated, and the tables of the other ways."""
    authority = Authority(folder)
    async with (
        servers_of_tests(folder / "servers", tls=authority.listener()) as servers,
        Redis.from_url(servers.redis_admin_url) as redis,
    ):
        await migrate(servers.postgres_url)
        connection = await asyncpg.connect(servers.postgres_url)
        await connection.execute(baseline.TABLE)
        await connection.execute(upserts.TABLE)
        await connection.close()
        yield Stage(servers, redis, folder, authority.ca)
