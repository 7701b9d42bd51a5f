"""Journey 2 put together: what the service runs of it, by name."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from functools import partial

import asyncpg
from redis.asyncio import Redis

from gateway.commands.acks import AckedStates, Acks
from gateway.commands.acks_stream import AcksStream
from gateway.commands.control import without_requests
from gateway.commands.dispatch import Dispatcher
from gateway.commands.facts import FactsReader
from gateway.commands.judging import Policy
from gateway.commands.open_commands import OpenCommands
from gateway.commands.overdue import Overdue
from gateway.commands.recording import Recorder
from gateway.commands.replies import send_replies
from gateway.commands.requests import Requests
from gateway.commands.sending import Envelope
from gateway.commands.taking_up import TakingUp, prune_commands
from gateway.links.downlink import Downlink, Published
from gateway.links.lease import Lease
from gateway.metrics import Metrics
from gateway.registry_copy import RegistryCopy
from gateway.settings import Settings
from gateway.supervise import Loop
from gateway.telemetry.ingest import Batch
from gateway.telemetry.state_store import StateStore


class CommandOffice:
    """Everything that commands need, around one set of open commands.

    Building it touches no server. `states` is for the control session's ingest, `batches` takes
    the requests out of that session, `loops` run beside them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: asyncpg.Pool,
        redis: Redis,
        downlink: Downlink,
        registry: RegistryCopy,
        states: StateStore,
        primary: Lease,
        metrics: Metrics,
    ) -> None:
        self._pool, self._downlink, self._registry = pool, downlink, registry
        self._primary, self._metrics, self._plain_states = primary, metrics, states
        self._keep_days = settings.keep_commands_days
        self._replies_wanted = asyncio.Event()
        secret = settings.fleet_secret
        by = f"gateway:{settings.instance}"
        facts, open_commands = FactsReader(redis), OpenCommands()
        envelope = Envelope(
            generations=registry, fleet_secret=secret.get_secret_value() if secret else None
        )
        self._acks = Acks(
            pool,
            AcksStream(redis),
            open_commands=open_commands,
            replies_wanted=self._replies_wanted,
            metrics=metrics,
        )
        self._requests = Requests(
            pool,
            Recorder(rights=registry, envelope=envelope, policy=_policy(settings)),
            rights=registry,
            facts=facts,
            open_commands=open_commands,
            publish=self._tell,
            replies_wanted=self._replies_wanted,
            metrics=metrics,
            by=by,
        )
        self._dispatcher = Dispatcher(
            pool,
            downlink,
            facts=facts,
            envelope=envelope,
            rights=registry,
            open_commands=open_commands,
            is_primary=primary.is_held,
            replies_wanted=self._replies_wanted,
            metrics=metrics,
            by=by,
        )
        self._overdue = Overdue(
            pool,
            facts=facts,
            open_commands=open_commands,
            may_close=primary.wait_held,
            replies_wanted=self._replies_wanted,
            metrics=metrics,
            by=by,
        )
        self._taking_up = TakingUp(
            pool,
            facts=facts,
            acks=self._acks,
            open_commands=open_commands,
            disown=self._requests.disown,
            came_online=self._dispatcher.came_online,
            may_take=primary.wait_held,
            is_primary=primary.is_held,
        )
        primary.when_lost(self._taking_up.lose)
        self.states = AckedStates(states, self._acks, births=self._dispatcher.came_online)

    def batches(self, batches: AsyncIterable[Batch]) -> AsyncIterator[Batch]:
        """The control session's batches without their requests, which are settled first."""
        return without_requests(
            batches,
            self._requests,
            states=self._plain_states,
            registry=self._registry,
            metrics=self._metrics,
        )

    def loops(self) -> dict[str, Loop]:
        """What must run for commands to move."""
        return {
            "open commands": self._taking_up.run,
            "dispatch": self._dispatch,
            "overdue": self._overdue.run,
            "evidence": self._overdue.watch_evidence,
            "replies": partial(
                send_replies,
                self._pool,
                self._downlink,
                wanted=self._replies_wanted,
                may_send=self._primary.wait_held,
            ),
            "old commands": partial(prune_commands, self._pool, keep_days=self._keep_days),
        }

    async def _dispatch(self) -> None:
        """Who may what, and with which key it is signed, is known before anything leaves."""
        await self._registry.loaded.wait()
        await self._dispatcher.run()

    async def _tell(self, topic: str, payload: bytes, correlation: bytes | None) -> Published:
        return await self._downlink.publish(topic, payload, qos=1, correlation=correlation)


def _policy(settings: Settings) -> Policy:
    return Policy(
        unlock_without_uptime=settings.unlock_without_uptime,
        battery_floor_percent=settings.unlock_battery_floor_percent,
    )
