"""Positions and secrets stay out of log lines; a scooter's id stays out of labels."""

import asyncio
from urllib.parse import urlsplit

import orjson

from tests.accounts import LOAD
from tests.e2e.system import System, until
from tests.load import publish
from tests.wire import Message

LAT, LON = "48.858371", "2.294482"
DISCREET = "EIFFEL-0001"


async def test_neither_positions_nor_secrets_are_logged_whatever_goes_wrong(
    system: System,
) -> None:
    servers = system.servers
    await system.register(DISCREET)
    gateway = await (await system.gateway(log_level="debug", echo_period_s=1.0)).ready()
    position = f'"lat":{LAT},"lon":{LON}'
    topic = f"scooters/{DISCREET}"
    messages = [
        Message(f"{topic}/telemetry", f"{{{position}}}".encode()),
        Message(f"{topic}/telemetry", f'{{{position},"batt":900}}'.encode()),
        Message(f"{topic}/telemetry", f'{{{position},"spd":NaN}}'.encode()),
        Message(f"{topic}/telemetry", f'{{"lat":{LAT},"lon":"{LON}"}}'.encode()),
        Message(f"{topic}/telemetry_batch", f'[{{{position}}},{{"batt":"{LAT}"}}]'.encode()),
        Message(f"{topic}/events", f'{{"id":"1-1","ev":"fall",{position}}}'.encode()),
        Message(f"{topic}/events", f'{{"id":"1-2",{position}}}'.encode()),
    ]
    await publish(system.mqtt_port, *messages)
    await system.clean()
    for server in (servers.postgres, servers.redis, servers.mosquitto):
        await asyncio.to_thread(server.kill)
        await until(asyncio.Event(), 1.0)
        await asyncio.to_thread(server.start)
        await gateway.ready()
        await publish(system.mqtt_port, *messages)
    await system.clean()
    page = await gateway.balanced()
    assert await gateway.terminate() == 0

    secrets = [
        servers.mqtt_password,
        LOAD.password,
        *(urlsplit(url).password or "?" for url in (servers.redis_url, servers.postgres_url)),
    ]
    for forbidden in (LAT, LON, *secrets):
        assert forbidden not in gateway.log
        assert forbidden not in page.text
    assert DISCREET not in page.text
    lines = [orjson.loads(line) for line in gateway.log.splitlines()]
    assert lines, "it says something"
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
