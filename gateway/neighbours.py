"""Notices other instances: several need SCOOTER_MQTT_SHARED, or each gets every report."""

import asyncio
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from gateway.errors import ServerAway
from gateway.links.lease import PRIMARY, instance_key
from gateway.telemetry.state_store import redis_translated

log = structlog.get_logger()

PERIOD_S: Final = 60.0
_PAGE: Final = 5000
"""Keys that Redis looks at in one go: a millisecond or two."""


async def running_instances(redis: Redis) -> list[str]:
    """Who holds a name now, by the leases in Redis; raises ServerAway."""
    before, after = instance_key("*").split("*")
    client: Any = redis  # its types know too many kinds of answers
    with redis_translated():
        keys = [
            key.decode() async for key in client.scan_iter(match=instance_key("*"), count=_PAGE)
        ]
    # SCAN may tell a key twice.
    return sorted({key.removeprefix(before).removesuffix(after) for key in keys if key != PRIMARY})


def not_shared(instances: list[str]) -> str | None:
    """What is wrong when these run and one of them does not share; None when nothing is."""
    if len(instances) < 2:  # noqa: PLR2004 - several
        return None
    return (
        f"several gateways run ({', '.join(instances)}) and SCOOTER_MQTT_SHARED is not set: each "
        "gets every report, and what the slower one brings appears as late; set it for all of them"
    )


async def watch_neighbours(redis: Redis, *, period_s: float = PERIOD_S) -> None:
    """Of a gateway that does not share: warn each time that others come or go."""
    told: list[str] = []
    while True:
        await asyncio.sleep(period_s)
        try:
            found = await running_instances(redis)
        except ServerAway:
            continue  # others tell that
        problem = not_shared(found)
        if problem and found != told:
            log.warning("telemetry is not shared", problem=problem)
        told = found
