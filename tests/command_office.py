"""Journey 2 without the broker: its parts on a real Postgres and Redis, moved a step at a time."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import orjson
from redis.asyncio import Redis

from devices.contract import topics
from devices.contract.commands import Command, parse_command
from devices.standing import Standing
from gateway.commands.acks import Acks
from gateway.commands.acks_stream import AcksStream, ScooterAck
from gateway.commands.dispatch import Dispatcher
from gateway.commands.facts import FactsReader
from gateway.commands.judging import Policy
from gateway.commands.open_commands import OpenCommands, clock
from gateway.commands.overdue import Overdue
from gateway.commands.recording import Recorder
from gateway.commands.replies import send_page
from gateway.commands.requests import Requests
from gateway.commands.sending import Envelope
from gateway.commands.taking_up import TakingUp
from gateway.errors import ServerAway
from gateway.links.delivery import Delivery
from gateway.links.downlink import Published
from gateway.metrics import Metrics

KEY: Final = "alice.laptop"
SECRET: Final = "a-fleet-secret-that-only-these-tests-know"  # noqa: S105
_refs = itertools.count(1)

_TRAVEL: Final = """
    UPDATE commands SET
        expires_at = expires_at - $1 * interval '1 second',
        next_send_at = next_send_at - $1 * interval '1 second',
        moved_at = moved_at - $1 * interval '1 second'
"""


class Traveller:
    """A clock that can be set forward, for this process and for the ledger."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now(self) -> float:
        return clock() + self._ahead_s

    def ahead(self, seconds: float) -> None:
        self._ahead_s += seconds


class FakeRights:
    """Everybody may everything, but for what a test changes."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing | None] = {}
        self.keys = {KEY: "alice", "alice.phone": "alice", "bob.desk": "bob"}
        self.forbidden: set[tuple[str, str]] = set()

    def standing(self, scooter_id: str) -> Standing | None:
        return self.standings.get(scooter_id, Standing.ACTIVE)

    def tags(self, scooter_id: str) -> frozenset[str]:
        return frozenset()

    def generation(self, scooter_id: str) -> int:
        return 1

    def may(self, login: str, command: str, tags: frozenset[str]) -> bool:
        return login in self.keys and (login, command) not in self.forbidden

    def operator_of(self, login: str) -> str | None:
        return self.keys.get(login)


@dataclass
class Sent:
    """One publish."""

    topic: str
    payload: bytes
    expiry_s: int | None
    correlation: bytes | None

    @property
    def command(self) -> Command:
        return parse_command(self.payload)

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = orjson.loads(self.payload)
        return body


@dataclass
class FakePublisher:
    """Stands in for the downlink and remembers; `result` is what each publish ends with."""

    result: Published | BaseException = Published.TAKEN
    sent: list[Sent] = field(default_factory=list)

    @property
    def connected(self) -> bool:
        return not isinstance(self.result, ServerAway)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
    ) -> Published:
        assert qos == 1
        if isinstance(self.result, ServerAway):
            raise self.result
        self.sent.append(Sent(topic, payload, expiry_s, correlation))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def commands(self, scooter_id: str) -> list[Sent]:
        return [each for each in self.sent if each.topic == topics.commands(scooter_id)]

    def replies(self, login: str = KEY) -> list[dict[str, Any]]:
        own = topics.replies(login)
        return [each.body for each in self.sent if each.topic.startswith(own)]


class Office:
    """One gateway's commands. Nothing moves but by the methods of the parts."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        redis: Redis,
        *,
        rights: FakeRights,
        publisher: FakePublisher,
        traveller: Traveller,
    ) -> None:
        self.pool, self.redis, self.publisher, self.rights = pool, redis, publisher, rights
        self.metrics, self.wanted = Metrics(), asyncio.Event()
        self.open = OpenCommands(now=traveller.now)
        self._traveller = traveller
        self.is_primary = True
        facts = FactsReader(redis, now=traveller.now)
        envelope = Envelope(generations=rights, fleet_secret=SECRET)
        shared: dict[str, Any] = {
            "open_commands": self.open,
            "replies_wanted": self.wanted,
            "metrics": self.metrics,
        }
        self.acks = Acks(pool, AcksStream(redis), **shared)
        recorder = Recorder(rights=rights, envelope=envelope, policy=Policy(), now=traveller.now)
        self.requests = Requests(
            pool, recorder, rights=rights, facts=facts, publish=self._tell, by="gateway:g", **shared
        )
        self.dispatcher = Dispatcher(
            pool,
            publisher,
            facts=facts,
            envelope=envelope,
            rights=rights,
            is_primary=lambda: self.is_primary,
            by="gateway:g",
            **shared,
        )
        self.overdue = Overdue(pool, facts=facts, may_close=_at_once, by="gateway:g", **shared)
        self.taking_up = TakingUp(
            pool,
            facts=facts,
            acks=self.acks,
            open_commands=self.open,
            disown=self.requests.disown,
            came_online=self.dispatcher.came_online,
            may_take=_at_once,
            is_primary=lambda: self.is_primary,
        )

    async def ask(self, *deliveries: Delivery) -> list[str | None]:
        return await self.requests.accept(deliveries)

    async def dispatch(self) -> None:
        """Send everything that is due."""
        while command := self.open.take_due():
            await self.dispatcher.send(command)

    async def ack(self, scooter_id: str, request_id: str, status: str, **members: object) -> bool:
        """Whether it was for a command of this scooter."""
        ack = ScooterAck(scooter_id, request_id, {"status": status} | members)
        if await self.acks.foreign([ack]):
            return False
        await self.acks.record([ack])
        return True

    async def reply(self) -> list[dict[str, Any]]:
        """Empty the outbox; every reply so far."""
        while await send_page(self.pool, self.publisher):
            pass
        return self.publisher.replies()

    async def travel(self, seconds: float) -> None:
        """All clocks of commands go forward."""
        self._traveller.ahead(seconds)
        await self.pool.execute(_TRAVEL, seconds)

    async def story(self, ref: str) -> list[str]:
        rows = await self.pool.fetch(
            "SELECT m.status FROM command_moves m JOIN commands c USING (request_id) "
            "WHERE c.ref = $1 ORDER BY m.number",
            ref,
        )
        return [row[0] for row in rows]

    async def row(self, ref: str) -> asyncpg.Record:
        row = await self.pool.fetchrow("SELECT * FROM commands WHERE ref = $1", ref)
        assert row is not None, f"no command of {ref}"
        return row

    async def _tell(self, topic: str, payload: bytes, correlation: bytes | None) -> Published:
        return await self.publisher.publish(topic, payload, qos=1, correlation=correlation)


async def _at_once() -> None:
    pass


@asynccontextmanager
async def open_office(postgres_url: str, redis: Redis, **parts: object) -> AsyncIterator[Office]:
    """An office; `rights`, `publisher` and `traveller` may be shared with another one."""
    made: dict[str, Any] = {
        "rights": FakeRights(),
        "publisher": FakePublisher(),
        "traveller": Traveller(),
    }
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=4, timeout=5) as pool:
        yield Office(pool, redis, **made | parts)


async def is_there(redis: Redis, scooter_id: str, **fields: object) -> None:
    """The state of a scooter that is online, locked and charged."""
    state: dict[str, Any] = {
        "presence": "online",
        "battery_percent": "80",
        "lock": "locked",
        "lock_order": "7:1:0:11",
        "lock_at": str(now_ms()),
        "boot": "7",
        "uptime_boot": "7",
        "uptime_ms": "60000",
        "uptime_at": str(now_ms()),
    }
    await redis.delete(f"scooter:{scooter_id}")
    kept = {name: str(value) for name, value in (state | fields).items() if value is not None}
    await redis.hset(f"scooter:{scooter_id}", mapping=kept)  # type: ignore[arg-type]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def request(
    scooter_id: str,
    command: str = "unlock",
    *,
    login: str = KEY,
    correlation: bytes | None = None,
    response_topic: str | None = None,
    retain: bool = False,
    **members: object,
) -> Delivery:
    """What an operator publishes."""
    body = {"ref": f"r{next(_refs)}", "at": now_ms(), "scooter_id": scooter_id, "command": command}
    return Delivery(
        topics.requests(login),
        orjson.dumps(body | members),
        retain=retain,
        correlation_data=correlation,
        response_topic=response_topic,
    )


def ref_of(delivery: Delivery) -> str:
    return str(orjson.loads(delivery.payload)["ref"])


def raw(payload: bytes, *, topic: str = topics.requests(KEY)) -> Delivery:
    return Delivery(topic, payload)


def statuses(replies: Sequence[dict[str, Any]], ref: str) -> list[str]:
    return [each["status"] for each in replies if each.get("ref") == ref]
