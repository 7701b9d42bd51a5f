"""Opens every resource, starts every loop, stops them all."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import asyncpg
import structlog
from redis.asyncio import Redis

from devices.contract import topics
from devices.contract.messages import build_receipts
from gateway.commands.office import CommandOffice
from gateway.errors import ServerAway
from gateway.gauges import keep_gauges
from gateway.health import Health, serve_health
from gateway.links.broker import broker_address
from gateway.links.downlink import Downlink
from gateway.links.lease import PRIMARY, Lease, instance_key
from gateway.links.plans import SessionPlan, session_plans
from gateway.links.uplink import Session
from gateway.metrics import Metrics
from gateway.neighbours import watch_neighbours
from gateway.outage import Outage
from gateway.proving import once_proven, proven
from gateway.registry_copy import RegistryCopy
from gateway.settings import Settings
from gateway.storage.partitions import keep_days, tend_partitions
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.supervise import Loop, supervise
from gateway.telemetry.history import drain
from gateway.telemetry.history_alone import keep_newest
from gateway.telemetry.ingest import Refill, ingest
from gateway.telemetry.presence import watch_presence
from gateway.telemetry.reader import Refiller
from gateway.telemetry.snapshots import DirtySet, write_snapshots
from gateway.telemetry.state_store import StateStore

log = structlog.get_logger()

KEEPS_UP_S: Final = 2.0
LOADED_PERIOD_S: Final = 5.0
INGESTS: Final = {"telemetry": 2, "events": 1}
"""How many share a session: one decodes while the other waits for Redis."""

UNKNOWN: Final = "not known yet: neither Postgres nor the copy in Redis has answered"
STOP_WITHIN_S: Final = 5.0
"""After this a Postgres that does not answer is left without a goodbye."""


async def run(settings: Settings, *, stop: asyncio.Event, metrics: Metrics | None = None) -> None:
    """Be a gateway until `stop` is set.

    Raises StartRefused when a server is set up in a way that would lose data, SettingsError for
    certificates that cannot be read, and whatever a loop failed with. Waits for servers that
    are away.
    """
    metrics, health = metrics or Metrics(), Health()
    host, port = settings.metrics_host, settings.metrics_port
    async with AsyncExitStack() as stack:
        pool = None
        if settings.postgres_url is not None:
            url = settings.postgres_url.get_secret_value()
            pool = await stack.enter_async_context(open_postgres(url, connections=16))
        redis = await stack.enter_async_context(open_redis(settings.redis_url.get_secret_value()))
        # Before anybody can ask: with nothing to watch yet it would say that it is ready.
        loops = _loops(settings, pool=pool, redis=redis, metrics=metrics, health=health)
        port = stack.enter_context(serve_health(health, metrics, host=host, port=port))
        log.info("gateway starts", instance=settings.instance, metrics_port=port)
        if pool is not None:
            stack.callback(asyncio.create_task(_give_up(pool, stop), name="give up").cancel)
        if await proven(pool, redis, stop=stop):
            await supervise(loops, stop=stop)
    log.info("gateway stopped", instance=settings.instance)


def _loops(
    settings: Settings,
    *,
    pool: asyncpg.Pool | None,
    redis: Redis,
    metrics: Metrics,
    health: Health,
) -> dict[str, Loop]:
    """Every loop of the service by its name; building them touches no server."""
    name = Lease(redis, instance_key(settings.instance), lease_s=settings.lease_s)
    primary = Lease(redis, PRIMARY, lease_s=settings.lease_s, gauge=metrics.primary)
    broker = broker_address(settings)
    downlink = Downlink(settings.instance, broker, metrics, may_connect=name.wait_held)
    name.when_lost(downlink.leave)
    sessions = _sessions(settings, name=name, primary=primary, metrics=metrics)
    _watch(health, sessions, name=name, primary=primary)
    states = StateStore(
        redis,
        stale_after_s=settings.stale_after_s,
        history_max_bytes=settings.history_max_mib * 2**20,
    )
    refill = Refiller(redis, pool, stale_after_s=settings.stale_after_s).fleet
    loops: dict[str, Loop] = {
        "name lease": name.run,
        "primary lease": partial(_hold_under, name, primary),
        "downlink": downlink.run,
        "refill": partial(_keep_loaded, refill),
        "heartbeat": health.beat,
    }
    loops |= _watching(settings, sessions, states, redis=redis, pool=pool, metrics=metrics)
    hearing = partial(_hearing, sessions, states=states, refill=refill, metrics=metrics)
    if pool is None:
        return loops | hearing() | _without_postgres(settings, redis=redis, metrics=metrics)
    registry = RegistryCopy(pool, redis, metrics=metrics)
    health.watch("registry", lambda: None if registry.loaded.is_set() else UNKNOWN)
    office = CommandOffice(
        settings,
        pool=pool,
        redis=redis,
        downlink=downlink,
        registry=registry,
        states=states,
        primary=primary,
        metrics=metrics,
    )
    loops |= hearing(office, registry) | {"registry": registry.run}
    writing = office.loops() | _with_postgres(
        settings, pool=pool, redis=redis, downlink=downlink, name=name, metrics=metrics
    )
    return loops | {each: partial(once_proven, pool, loop) for each, loop in writing.items()}


def _watching(
    settings: Settings,
    sessions: dict[str, Session],
    states: StateStore,
    *,
    redis: Redis,
    pool: asyncpg.Pool | None,
    metrics: Metrics,
) -> dict[str, Loop]:
    """Who is silent, what is measured, and whether somebody else hears the same."""
    stores = {"redis": redis.ping} | (
        {"postgres": partial(pool.fetchval, "SELECT 1")} if pool else {}
    )
    loops: dict[str, Loop] = {
        "presence": partial(
            watch_presence,
            states,
            is_listening=lambda: _keeps_up(sessions["telemetry"]),
            metrics=metrics,
        ),
        "gauges": partial(keep_gauges, list(sessions.values()), DirtySet(redis), stores, metrics),
    }
    if not settings.mqtt_shared:
        loops["neighbours"] = partial(watch_neighbours, redis)
    return loops


def _hearing(
    sessions: dict[str, Session],
    office: CommandOffice | None = None,
    registry: RegistryCopy | None = None,
    *,
    states: StateStore,
    refill: Refill,
    metrics: Metrics,
) -> dict[str, Loop]:
    """Every session with its consumer; of control, the office takes the requests and the acks."""
    loops: dict[str, Loop] = {}
    for each, session in sessions.items():
        keep = partial(ingest, refill=refill, metrics=metrics, registry=registry, session=each)
        loops[f"{each} session"] = session.run
        if each == "control" and office is not None:
            batches = office.batches(session.batches())
            loops[f"{each} ingest"] = partial(keep, batches, states=office.states)
            continue
        turn = asyncio.Lock()
        for number in range(INGESTS.get(each, 1)):
            keep_these = partial(keep, session.batches(), states=states, turn=turn)
            loops[f"{each} ingest {number + 1}"] = keep_these
    return loops


def _with_postgres(
    settings: Settings,
    *,
    pool: asyncpg.Pool,
    redis: Redis,
    downlink: Downlink,
    name: Lease,
    metrics: Metrics,
) -> dict[str, Loop]:
    return {
        "snapshots": partial(
            write_snapshots,
            DirtySet(redis),
            pool,
            period_s=settings.snapshot_period_s,
            metrics=metrics,
        ),
        "history": partial(
            drain,
            redis,
            pool,
            send_receipts=partial(_send_receipts, downlink),
            metrics=metrics,
            may_take=name.wait_held,  # whoever stands by has no downlink for receipts
        ),
        "partitions": partial(tend_partitions, pool, keep=keep_days(settings), metrics=metrics),
    }


def _without_postgres(settings: Settings, *, redis: Redis, metrics: Metrics) -> dict[str, Loop]:
    at_most_bytes = settings.history_max_mib * 2**20 // 2
    return {"history": partial(keep_newest, redis, at_most_bytes=at_most_bytes, metrics=metrics)}


def _sessions(
    settings: Settings, *, name: Lease, primary: Lease, metrics: Metrics
) -> dict[str, Session]:
    broker, plans = broker_address(settings), session_plans(settings)

    def session(plan: SessionPlan, *leases: Lease) -> Session:
        async def may_connect() -> bool:
            for lease in leases:
                await lease.wait_held()
            return all(lease.is_held() for lease in leases)

        made = Session(plan, broker, metrics, may_connect=may_connect)
        for lease in leases:
            lease.when_lost(made.leave)
        return made

    return {
        "telemetry": session(plans.telemetry, name),
        "events": session(plans.events, name, primary),
        "control": session(plans.control, name, primary),
    }


def _keeps_up(session: Session) -> bool:
    """Whether what scooters say is kept as it comes: else silence proves nothing."""
    return session.connected and session.oldest_unsettled_s() < KEEPS_UP_S


async def _keep_loaded(refill: Refill) -> None:
    """An emptied Redis is refilled also while nobody reports."""
    outage = Outage("the states")
    while True:
        wait_s = LOADED_PERIOD_S
        try:
            await refill()
            outage.back()
        except ServerAway as error:
            wait_s = outage.away(error)
        await asyncio.sleep(wait_s)


async def _give_up(pool: asyncpg.Pool, stop: asyncio.Event) -> None:
    """A frozen Postgres keeps a cancelled statement waiting; it shall not keep us from ending."""
    await stop.wait()
    await asyncio.sleep(STOP_WITHIN_S)
    pool.terminate()


async def _hold_under(name: Lease, primary: Lease) -> None:
    """Stand for primary only while the name is ours: else nobody would hear the events."""
    lost = asyncio.Event()
    name.when_lost(lambda _reason: lost.set())
    while True:
        await name.wait_held()
        lost.clear()
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(primary.run(), name="primary lease under the name")
            await lost.wait()
            holding.cancel()


async def _send_receipts(downlink: Downlink, scooter_id: str, event_ids: list[str]) -> None:
    for payload in build_receipts(event_ids):
        await downlink.publish(topics.receipts(scooter_id), payload, qos=0)


def _watch(health: Health, sessions: dict[str, Session], *, name: Lease, primary: Lease) -> None:
    """Ready is an instance that holds its name and hears everything that it should."""

    def nameless() -> str | None:
        if name.is_held():
            return None
        return "standing by: the name is taken" if name.is_elsewhere() else "not asked for yet"

    def deaf(each: str) -> str | None:
        if sessions[each].connected or (each != "telemetry" and primary.is_elsewhere()):
            return None
        return "not connected to the broker"

    health.watch("lease", nameless)
    for each in sessions:
        health.watch(f"{each} session", partial(deaf, each))
