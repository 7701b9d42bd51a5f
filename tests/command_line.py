"""The `scooter` command as a program of its own, and a gateway's doings for it to look at."""

import asyncio
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress
from gateway.links.delivery import Delivery
from gateway.links.probe import Probe, open_probe
from gateway.local.servers import Servers
from gateway.telemetry.entries import entry_of
from gateway.telemetry.state_store import LOADED, StateStore


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever it printed
        return orjson.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """This process's environment with these settings and no others, `snapshot_period_s` style."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SCOOTER_")}
    return plain | {f"SCOOTER_{name.upper()}": str(value) for name, value in settings.items()}


async def start(*arguments: str, **settings: object) -> asyncio.subprocess.Process:
    """Start `scooter …`, without a terminal."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def scooter(*arguments: str, **settings: object) -> Ended:
    """Run `scooter …` to its end, without a terminal."""
    process = await start(*arguments, **settings)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def receive(redis: Redis, scooter_id: str, kind: str, payload: object) -> list[str]:
    """Do what the gateway does with one message of a scooter; returns the outcomes."""
    await redis.set(LOADED, "1")
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    now_ms = time.time_ns() // 1_000_000
    entry = entry_of(Delivery(f"scooters/{scooter_id}/{kind}", body))
    states = StateStore(redis, stale_after_s=180, history_max_bytes=1 << 28)
    return (await states.advance([entry], received_ms=now_ms)).outcomes


Run = Callable[..., Awaitable[Ended]]


def runner(settings: Mapping[str, object]) -> Run:
    """Runs `scooter …` with these settings; a keyword changes one, None takes it away."""

    async def run_scooter(*arguments: str, **changed: object) -> Ended:
        given = {name: each for name, each in {**settings, **changed}.items() if each is not None}
        return await scooter(*arguments, **given)

    return run_scooter


async def added(run: Run, *arguments: str) -> dict[str, Any]:
    """The bundle of a scooter that `scooter devices add` added just now."""
    ended = await run("devices", "add", *arguments, "--json")
    assert ended.code == 0, ended.err
    bundle: dict[str, Any] = ended.json[0]["bundle"]
    return bundle


def access_settings(servers: Servers) -> dict[str, object]:
    """What the commands that give and take access need of a broker of ours."""
    return {
        "mqtt_host": servers.mqtt_host,
        "mqtt_port": servers.mqtt_port,
        "mqtt_username": servers.mqtt_username,
        "mqtt_password": servers.mqtt_password,
        "mqtt_admin_password": servers.mqtt_admin_password,
        "mqtt_public_host": "localhost",
        "mqtt_scooters_port": servers.mqtt_scooters_port,
        "mqtt_operators_port": servers.mqtt_operators_port,
        "mqtt_authority_file": servers.authority_file,
        "broker_password_file": servers.password_file,
        "broker_reload": servers.broker_reload,
    }


@asynccontextmanager
async def logged_in(bundle: Mapping[str, Any]) -> AsyncIterator[Probe]:
    """A live session with a bundle, as whoever it was handed to; raises ServerAway."""
    address = BrokerAddress(
        host=bundle["host"],
        port=bundle["port"],
        username=bundle["username"],
        password=bundle["secret"],
        tls=ssl.create_default_context(cadata=bundle["authority"]),
    )
    async with open_probe(address) as probe:
        await probe.connect(address, "whatever", clean_start=True, session_expiry_s=0)
        yield probe


async def gets_in(bundle: Mapping[str, Any]) -> bool:
    """Whether the broker takes the bundle's secret; raises ServerAway when it cannot be asked."""
    try:
        async with logged_in(bundle) as probe:
            probe.leave()
    except ServerAway as error:
        if "refuses the login" in error.detail:
            return False
        raise
    return True
