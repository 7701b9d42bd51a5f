"""Everything that an operator's command line meets: servers, a gateway, scooters, keys."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiomqtt
import asyncpg
import orjson
from redis.asyncio import Redis

from devices.bundle import Bundle
from devices.bundle_places import place_for
from devices.contract import topics
from devices.contract.topics import Uplink
from devices.registry import NewScooter
from devices.simulator.plan import Broker, FleetPlan, Mishaps
from devices.simulator.scooter import run_fleet
from gateway.local.servers import Servers, free_port
from gateway.storage.migrate import migrate
from tests.accounts import LOAD
from tests.command_line import Ended, start
from tests.desk import BY, FLEET_SECRET, Address, Desk, open_desk
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess

KEY: Final = "alice.laptop"


class Town:
    """Servers of a test's own with a gateway process and a provisioning desk."""

    def __init__(self, servers: Servers, desk: Desk, gateway: GatewayProcess, folder: Path) -> None:
        self.servers = servers
        self.desk = desk
        self.gateway = gateway
        self._scooters = 0
        self._folder = folder
        self._secrets: list[str] = []

    @property
    def store_settings(self) -> dict[str, object]:
        """For the commands that read the ledger or the registry."""
        return {"postgres_url": self.desk.address.postgres_url}

    def bundle(self, login: str = KEY) -> Path:
        return self._folder / f"{login}.json"

    async def key(
        self, login: str = KEY, commands: Iterable[str] = ("*",), tags: Iterable[str] = ("*",)
    ) -> Path:
        """An operator with these rights and the bundle of a key."""
        operator = login.partition(".")[0]
        await self.desk.operators.add(operator, by=BY)
        await self.desk.operators.grant(operator, list(commands), list(tags), by=BY)
        place = place_for(self.bundle(login))
        await self.desk.keys.add_key(login, by=BY, place=place)
        self._secrets.append(json.loads(self.bundle(login).read_text())["secret"])
        return self.bundle(login)

    async def start(self, *arguments: str, **settings: object) -> asyncio.subprocess.Process:
        process = await start(*arguments, env_file="/nonexistent", **settings)
        assert not any(secret in _command_line(process.pid) for secret in self._secrets)
        return process

    async def end(self, process: asyncio.subprocess.Process) -> Ended:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        ended = Ended(process.returncode or 0, out.decode(), err.decode())
        assert not any(secret in ended.out + ended.err for secret in self._secrets)
        assert "Traceback" not in ended.err, ended.err
        return ended

    async def scooter(self, *arguments: str, **settings: object) -> Ended:
        """Run `scooter …` as an operator: it knows of no server but what the key's bundle says."""
        return await self.end(await self.start(*arguments, **settings))

    async def bundles(self, *ids: str, tags: tuple[str, ...] = ()) -> list[Bundle]:
        """New scooters that get in, and that the gateway knows."""
        bundles = []
        for each in ids:
            change = await self.desk.provisioning.add(NewScooter(each, tags=tags), by=BY)
            await self.desk.provisioning.handed_over(change, by=BY)
            assert change.bundle is not None
            bundles.append(change.bundle)
        self._scooters += len(bundles)
        await self.gateway.knows(self._scooters)
        return bundles

    @asynccontextmanager
    async def fleet(self, *ids: str, tags: tuple[str, ...] = ()) -> AsyncIterator[None]:
        """Simulated scooters with credentials, parked and locked, that are online."""
        broker, stop = Broker.of_bundles(await self.bundles(*ids, tags=tags)), asyncio.Event()
        plan = FleetPlan(ids=ids, mishaps=Mishaps.none(), rides=False)
        riding = asyncio.create_task(run_fleet(plan, broker, stop=stop))
        try:
            for each in ids:
                await self.known(each, lock="locked", presence="online")
            yield
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await riding

    async def known(self, scooter_id: str, **fields: str) -> None:
        """Until the state in Redis says so."""
        async with Redis.from_url(self.servers.redis_admin_url) as redis:

            async def probe() -> bool:
                state = await redis.hgetall(f"scooter:{scooter_id}")
                return all(state.get(k.encode()) == v.encode() for k, v in fields.items())

            await eventually(probe, within_s=30, what=f"{fields} of {scooter_id}")

    async def sleeps(self, scooter_id: str) -> None:
        """A registered scooter that was there once and said goodbye."""
        async with (
            crowd(self.servers, [scooter_id]),
            aiomqtt.Client(
                self.servers.mqtt_host,
                self.servers.mqtt_port,
                username=LOAD.username,
                password=LOAD.password,
            ) as client,
        ):
            await self.known(scooter_id, presence="online")
            body = {"s": "sleeping", "boot": 1, "conn": 1, "up": 61_000}
            topic = topics.uplink(scooter_id, Uplink.STATUS)
            await client.publish(topic, orjson.dumps(body), qos=1)
            await self.known(scooter_id, presence="sleeping")

    async def recorded(self, count: int) -> int:
        """Until the ledger has at least so many commands; how many it has then."""

        async def probe() -> int | None:
            found: int = await self.desk.pool.fetchval("SELECT count(*) FROM commands")
            return found if found >= count else None

        return await eventually(probe, within_s=60, what=f"{count} commands")

    async def story(self, scooter_id: str) -> list[str]:
        """The moves of all its commands, in the ledger's order."""
        async with asyncpg.create_pool(
            self.desk.address.postgres_url, min_size=1, max_size=1
        ) as pool:
            rows = await pool.fetch(
                "SELECT m.status FROM command_moves m JOIN commands c USING (request_id) "
                "WHERE c.scooter_id = $1 ORDER BY c.issued, m.number",
                scooter_id,
            )
        return [row[0] for row in rows]


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


@asynccontextmanager
async def town(servers: Servers, folder: Path) -> AsyncIterator[Town]:
    """A gateway that is ready, and nobody else yet."""
    postgres_url = servers.postgres_url
    await migrate(postgres_url)
    address = Address(
        port=servers.mqtt_port,
        scooters_port=servers.mqtt_scooters_port,
        operators_port=servers.mqtt_operators_port,
        admin_password=servers.mqtt_admin_password,
        password_file=str(servers.password_file),
        reload=servers.broker_reload,
        authority_file=str(servers.authority_file),
        postgres_url=postgres_url,
    )
    settings = {
        "mqtt_host": servers.mqtt_host,
        "mqtt_port": servers.mqtt_port,
        "mqtt_username": servers.mqtt_username,
        "mqtt_password": servers.mqtt_password,
        "redis_url": servers.redis_url,
        "postgres_url": postgres_url,
        "fleet_secret": FLEET_SECRET,
        "lease_s": 1.5,
        "metrics_port": free_port(),
    }
    gateway = GatewayProcess(settings, log_file=folder / "gateway.log")
    async with open_desk(address) as desk:
        await gateway.start()
        try:
            await gateway.ready(within_s=60)
            yield Town(servers, desk, gateway, folder)
        finally:
            await gateway.kill()


@asynccontextmanager
async def crowd(
    servers: Servers, ids: Iterable[str], *, silent: frozenset[str] = frozenset()
) -> AsyncIterator[list[str]]:
    """Scooters on one connection that do what they are told; the `silent` never answer.

    Yields a list of who was sent a command, once for each that was new to it.
    """
    async with aiomqtt.Client(
        servers.mqtt_host, servers.mqtt_port, username=LOAD.username, password=LOAD.password
    ) as client:
        client.pending_calls_threshold = 10_000
        await client.subscribe("scooters/+/commands", qos=1)
        for each in ids:
            body = {"s": "online", "boot": 1, "conn": 1, "up": 60_000}
            topic = topics.uplink(each, Uplink.STATUS)
            await client.publish(topic, orjson.dumps(body), qos=1)
        sent: list[str] = []
        answering = asyncio.create_task(_answer(client, silent, sent))
        try:
            yield sent
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _answer(client: aiomqtt.Client, silent: frozenset[str], sent: list[str]) -> None:
    known: set[str] = set()
    async for message in client.messages:
        scooter_id = message.topic.value.split("/")[1]
        if scooter_id in silent or not isinstance(message.payload, bytes):
            continue
        request_id = orjson.loads(message.payload)["request_id"]
        if request_id not in known:
            known.add(request_id)
            sent.append(scooter_id)
        for status in ("received", "success"):
            ack: Mapping[str, Any] = {"request_id": request_id, "status": status, "boot": 1}
            await client.publish(topics.uplink(scooter_id, Uplink.ACKS), orjson.dumps(ack), qos=1)


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Ctrl-C."""
    os.kill(process.pid, signal.SIGINT)


async def says(process: asyncio.subprocess.Process, text: str) -> str:
    """The line of standard error that has this text; later ones stay unread."""
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it ended without {text!r}")


async def prints(process: asyncio.subprocess.Process, text: str) -> str:
    """The line of standard output that has this text; later ones stay unread."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it ended without {text!r}")


def statuses(ended: Ended) -> list[str]:
    """Of the moves that `--json` printed."""
    return [line["status"] for line in map(orjson.loads, ended.lines)]


def last_words(ended: Ended) -> str:
    """The last line on standard error."""
    return ended.err.strip().splitlines()[-1]
