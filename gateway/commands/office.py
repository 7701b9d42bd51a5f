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
        self._settings, self._pool, self._redis = settings, pool, redis
        self._downlink, self._registry, self._primary = downlink, registry, primary
        self._metrics, self._plain_states = metrics, states
        self._by = f"gateway:{settings.instance}"
        self._replies_wanted = asyncio.Event()
        self._facts, self._open = FactsReader(redis), OpenCommands()
        secret = settings.fleet_secret
        self._envelope = Envelope(
            generations=registry,
            fleet_secret=None if secret is None else secret.get_secret_value(),
        )
        self._acks = self._new_acks()
        self._requests = self._new_requests()
        self._dispatcher = self._new_dispatcher()
        self._overdue = self._new_overdue()
        self._taking_up = self._new_taking_up()
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
            "old commands": partial(
                prune_commands, self._pool, keep_days=self._settings.keep_commands_days
            ),
        }

    async def _dispatch(self) -> None:
        """Who may what, and with which key it is signed, is known before anything leaves."""
        await self._registry.loaded.wait()
        await self._dispatcher.run()

    def _new_acks(self) -> Acks:
        return Acks(
            self._pool,
            AcksStream(self._redis),
            open_commands=self._open,
            replies_wanted=self._replies_wanted,
            metrics=self._metrics,
        )

    def _new_requests(self) -> Requests:
        policy = Policy(
            unlock_without_uptime=self._settings.unlock_without_uptime,
            battery_floor_percent=self._settings.unlock_battery_floor_percent,
        )
        return Requests(
            self._pool,
            Recorder(rights=self._registry, envelope=self._envelope, policy=policy),
            rights=self._registry,
            facts=self._facts,
            open_commands=self._open,
            publish=self._tell,
            replies_wanted=self._replies_wanted,
            metrics=self._metrics,
            by=self._by,
        )

    def _new_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self._pool,
            self._downlink,
            facts=self._facts,
            envelope=self._envelope,
            rights=self._registry,
            open_commands=self._open,
            is_primary=self._primary.is_held,
            replies_wanted=self._replies_wanted,
            metrics=self._metrics,
            by=self._by,
        )

    def _new_overdue(self) -> Overdue:
        return Overdue(
            self._pool,
            facts=self._facts,
            open_commands=self._open,
            may_close=self._primary.wait_held,
            replies_wanted=self._replies_wanted,
            metrics=self._metrics,
            by=self._by,
        )

    def _new_taking_up(self) -> TakingUp:
        return TakingUp(
            self._pool,
            facts=self._facts,
            acks=self._acks,
            open_commands=self._open,
            disown=self._requests.disown,
            came_online=self._dispatcher.came_online,
            may_take=self._primary.wait_held,
            is_primary=self._primary.is_held,
        )

    async def _tell(self, topic: str, payload: bytes, correlation: bytes | None) -> Published:
        return await self._downlink.publish(topic, payload, qos=1, correlation=correlation)
