"""Ends an instance for good: takes what its broker session still holds, then deletes it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from gateway.errors import GatewayError, ServerAway
from gateway.links.broker import broker_address
from gateway.links.lease import Lease, instance_key
from gateway.links.plans import session_plans, telemetry_filters
from gateway.links.uplink import Session, delete_session
from gateway.metrics import Metrics
from gateway.registry_copy import RegistryCopy
from gateway.settings import Settings
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.ingest import ingest
from gateway.telemetry.state_store import StateStore

QUIET_S: Final = 2.0
"""With nothing but echoes for this long, and nothing unsettled, a session is drained."""

CONNECT_WITHIN_S: Final = 15.0


class InstanceAlive(GatewayError):
    """Another process holds the instance's name."""

    def __init__(self, instance: str) -> None:
        super().__init__(f"the instance {instance} still runs: stop it first")
        self.instance = instance


async def retire(settings: Settings) -> int:
    """Drain and delete the telemetry session of `settings.instance`; returns what it held.

    Events and control are the fleet's, not an instance's: another one carries them on. Repeating
    it is harmless. Raises InstanceAlive, or ServerAway when a server is not there.
    """
    metrics, broker = Metrics(), broker_address(settings)
    # No new message may come in while the old ones are taken out.
    plan = replace(
        session_plans(settings).telemetry,
        filters=(),
        unwanted=telemetry_filters(settings),
        echo_period_s=QUIET_S / 4,
    )
    async with open_redis(settings.redis_url.get_secret_value()) as redis:
        name = Lease(redis, instance_key(settings.instance), lease_s=settings.lease_s)
        holding = asyncio.create_task(name.run(), name="lease")
        try:
            await _take(name, settings)
            session = Session(plan, broker, metrics, may_connect=name.wait_held)
            name.when_lost(session.leave)
            await _drain(session, settings, redis=redis, metrics=metrics)
            if not name.is_held():
                raise ServerAway("redis", "the lease on the name was lost: repeat it")
            await delete_session(plan, broker, metrics)
        except OSError as error:
            raise ServerAway("broker", str(error) or type(error).__name__) from error
        finally:
            holding.cancel()
            await asyncio.wait({holding})
    return _others(metrics)


async def _take(name: Lease, settings: Settings) -> None:
    """A lease that nobody renews runs out within `lease_s`."""
    try:
        async with asyncio.timeout(settings.lease_s * 1.5):
            await name.wait_held()
    except TimeoutError:
        raise InstanceAlive(settings.instance) from None


async def _drain(session: Session, settings: Settings, *, redis: Redis, metrics: Metrics) -> None:
    states = StateStore(
        redis,
        stale_after_s=settings.stale_after_s,
        history_max_bytes=settings.history_max_mib * 2**20,
    )
    async with _registry(settings, redis=redis, metrics=metrics) as registry:
        keeping = ingest(
            session.batches(),
            states=states,
            refill=_wait,
            metrics=metrics,
            session="retire",
            registry=registry,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(session.run()), group.create_task(keeping)]
            await _quiet(session, metrics)
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def _registry(
    settings: Settings, *, redis: Redis, metrics: Metrics
) -> AsyncGenerator[RegistryCopy | None, None]:
    """Who is heard; None without Postgres. Raises ServerAway when nothing of it is known."""
    if settings.postgres_url is None:
        yield None
        return
    async with open_postgres(settings.postgres_url.get_secret_value()) as pool:
        registry = RegistryCopy(pool, redis, metrics=metrics)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(registry.run(), name="registry")
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    await registry.loaded.wait()
            except TimeoutError:
                raise ServerAway("postgres", "and Redis has no copy of the registry") from None
            yield registry
            following.cancel()


async def _wait() -> None:
    raise ServerAway("redis", "it was emptied: start a gateway, which refills it")


async def _quiet(session: Session, metrics: Metrics) -> None:
    """Return when only echoes came for `QUIET_S` and everything is settled."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            while not session.connected:  # noqa: ASYNC110 - a session tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise ServerAway("broker", "no connection") from None
    while True:
        echoes, received = metrics.outcomes()["echo"], _others(metrics)
        await asyncio.sleep(QUIET_S)
        # An echo comes behind what the broker has queued: silence alone may be a frozen broker.
        came_back = metrics.outcomes()["echo"] > echoes
        is_idle = not metrics.value("gateway_deliveries_in_flight")
        if session.connected and came_back and is_idle and _others(metrics) == received:
            return


def _others(metrics: Metrics) -> int:
    return metrics.value("gateway_deliveries_received_total") - metrics.outcomes()["echo"]
