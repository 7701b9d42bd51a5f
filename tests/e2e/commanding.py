"""Journey 2 on the whole system: operators that come back, and what must hold of the ledger."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import aiomqtt
import asyncpg
import orjson
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.contract import topics
from devices.contract.commands import CommandStatus
from devices.operators import Operators
from devices.registry import Registry
from gateway.commands.lifecycle import NEXT
from gateway.telemetry.state_store import SCOOTER
from tests.bundles import FLEET_SECRET
from tests.commanding import FINAL, FIRST, KEY, PASSWORD_HASH
from tests.e2e.scooter import AGAIN_S, Scooter, client_of, in_background, wall_ms
from tests.e2e.system import System
from tests.eventually import eventually
from tests.gateway_process import GatewayProcess
from tests.registration import register

_OPEN: Final = "SELECT count(*) FROM commands WHERE status IN ('queued', 'sent', 'received')"
_LEDGER: Final = """
    SELECT c.*, m.told, m.numbers FROM commands c JOIN (
        SELECT request_id, array_agg(status ORDER BY number) AS told,
            array_agg(number ORDER BY number) AS numbers
        FROM command_moves GROUP BY request_id) m USING (request_id)
"""
_NEVER_DONE: Final = frozenset({"refused", "expired", "cancelled"})
_numbers = itertools.count(1)


class Operator:
    """One connection for every operator's key; its session is kept, so it misses no reply."""

    def __init__(self, port: int, *, protocol: int = 5) -> None:
        self._port = port
        self._protocol = protocol
        self._client: aiomqtt.Client | None = None
        self._connected = asyncio.Event()
        self.replies: list[dict[str, Any]] = []
        self.properties: list[tuple[str, bytes | None]] = []
        """Topic and correlation data of each reply."""
        self._asked: dict[str, tuple[bytes, str]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Operator"]:
        async with in_background(self._stay()):
            await self._connected.wait()
            yield self

    async def ask(
        self,
        scooter_id: str,
        command: str,
        *,
        login: str = KEY,
        **members: Any,  # noqa: ANN401 - of a request
    ) -> str:
        """Ask until the broker has it; returns the ref."""
        ref = f"r{next(_numbers)}"
        body = {"ref": ref, "at": wall_ms(), "scooter_id": scooter_id, "command": command}
        self._asked[ref] = orjson.dumps(body | members), login
        await self.again(ref)
        return ref

    async def again(self, ref: str) -> None:
        """The same request once more, word by word."""
        payload, login = self._asked[ref]
        await self.publish(payload, login=login)

    async def publish(
        self, payload: bytes, *, login: str = KEY, retain: bool = False, **members: object
    ) -> None:
        """Raw bytes on a key's request topic; `members` are MQTT 5 properties."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in members.items():
            setattr(properties, name, value)
        while True:
            await self._connected.wait()
            try:
                assert self._client is not None
                await self._client.publish(
                    topics.requests(login),
                    payload,
                    qos=1,
                    retain=retain,
                    properties=properties if members else None,
                )
            except aiomqtt.MqttError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def of(self, ref: str) -> list[dict[str, Any]]:
        """What was told of a request, in order, each move once: replies may come twice."""
        told: dict[tuple[Any, Any], dict[str, Any]] = {}
        for each in self.replies:
            if each.get("ref") == ref:
                told.setdefault((each.get("request_id"), each.get("move")), each)
        return list(told.values())

    def story(self, ref: str) -> list[str]:
        return [each["status"] for each in self.of(ref)]

    async def until(self, ref: str, *statuses: str, within_s: float = 60.0) -> dict[str, Any]:
        """The first reply with one of these statuses; any end when none is named."""
        wanted = statuses or FINAL

        async def probe() -> dict[str, Any] | None:
            return next((each for each in self.of(ref) if each["status"] in wanted), None)

        try:
            return await eventually(probe, within_s=within_s, what=f"{' or '.join(wanted)}")
        except AssertionError as error:
            raise AssertionError(f"{error} of {ref}: {self.of(ref)}") from None

    async def _stay(self) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                name = f"operator-{self._protocol}"
                async with client_of(
                    self._port, name, keeps=True, protocol=self._protocol
                ) as client:
                    await client.subscribe("operators/+/replies/#", qos=1)
                    self._client = client
                    self._connected.set()
                    async for message in client.messages:
                        self.replies.append(orjson.loads(bytes(message.payload)))
                        given = getattr(message.properties, "CorrelationData", None)
                        self.properties.append((message.topic.value, given))
            self._connected.clear()
            await asyncio.sleep(AGAIN_S)


async def admit(postgres_url: str, ids: Iterable[str]) -> None:
    """Active scooters with a first credential, so that they have a command key."""
    ids = list(ids)
    await register(postgres_url, ids)
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:
        await Registry(pool).set_credentials(dict.fromkeys(ids, PASSWORD_HASH), by="tests")
    await register(postgres_url, ids)  # a credential has to be handed over first


async def grant(postgres_url: str, login: str = KEY, *, commands: Iterable[str] = ("*",)) -> None:
    """An active key of an operator who may do this to every scooter."""
    name = login.partition(".")[0]
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:
        operators = Operators(pool)
        await operators.add(name, by="tests")
        await operators.add_key(login, PASSWORD_HASH, by="tests")
        await operators.grant(name, tuple(commands), ("*",), by="tests")


@asynccontextmanager
async def cast(
    system: System, *scooters: Scooter, instance: str = "gateway-1", **settings: object
) -> AsyncIterator[tuple[GatewayProcess, Operator]]:
    """A gateway that is ready, an operator who may do everything, scooters that may be heard."""
    await admit(system.servers.postgres_url, [each.scooter_id for each in scooters])
    await grant(system.servers.postgres_url)
    settings = {"fleet_secret": FLEET_SECRET} | settings
    gateway = await (await system.gateway(instance, **settings)).ready()
    async with Operator(system.mqtt_port).running() as operator:
        yield gateway, operator


@asynccontextmanager
async def online(
    system: System, *scooters: Scooter, port: int | None = None, keeps_session: bool = False
) -> AsyncIterator[None]:
    """Scooters that are connected, and known with their boot and their lock."""
    async with contextlib.AsyncExitStack() as stack:
        for each in scooters:
            await stack.enter_async_context(
                each.online(port or system.mqtt_port, keeps_session=keeps_session)
            )
            each.report()
        for each in scooters:
            await known(system, each)
        yield


async def known(system: System, scooter: Scooter) -> None:
    """Until the state is of the scooter's boot, and has its uptime and its lock."""

    fields = ("presence", "lock", "uptime_boot")
    wanted = [b"online", scooter.lock.encode(), str(scooter.boot).encode()]

    async def probe() -> bool:
        return bool(await system.redis.hmget(f"{SCOOTER}{scooter.scooter_id}", fields) == wanted)

    await eventually(probe, within_s=60, what=f"the state of {scooter.scooter_id}")


async def standing(system: System, ref: str) -> str | None:
    """The status of a request in the ledger; None while there is no row."""
    rows = await system.ask("SELECT status FROM commands WHERE ref = $1", ref)
    return rows[0][0] if rows else None


async def until_standing(system: System, ref: str, *statuses: str, within_s: float = 60.0) -> None:
    async def probe() -> bool:
        return await standing(system, ref) in statuses

    await eventually(probe, within_s=within_s, what=f"{ref} to be {' or '.join(statuses)}")


async def past(ms: int) -> None:
    """Until this moment of the wall clock is over: nothing else tells that a ttl is."""
    await asyncio.sleep(max(0, ms + 1 - wall_ms()) / 1000)


async def assert_sound(
    system: System, operator: Operator, scooters: Sequence[Scooter], *, within_s: float = 60.0
) -> None:
    """Each command has one end and was told so; nothing was done late, twice, or in spite of it."""

    async def is_over() -> bool:
        return bool((await system.ask(_OPEN))[0][0] == 0)

    await eventually(is_over, within_s=within_s, what="every command to end")
    rows = await system.ask(_LEDGER)
    for row in rows:
        _assert_one_end(row)

    def recorded(ref: str) -> list[dict[str, Any]]:
        return [each for each in operator.of(ref) if each.get("request_id")]

    async def is_told() -> bool:
        return all(len(recorded(row["ref"])) >= row["moves"] for row in rows)

    await eventually(is_told, within_s=within_s, what="every reply")
    for row in rows:
        told = recorded(row["ref"])
        assert [each["status"] for each in told] == row["told"], told
        assert [each["move"] for each in told] == row["numbers"], told
    _assert_done_in_time(rows, scooters)


def _assert_one_end(row: Any) -> None:  # noqa: ANN401 - a record
    told = [CommandStatus(each) for each in row["told"]]
    assert row["numbers"] == list(range(1, row["moves"] + 1))
    assert told[-1] == row["status"]
    assert told[0] in FIRST
    assert all(after in NEXT[before] for before, after in pairwise(told)), told
    ends = [each for each in told if each in FINAL]
    assert ends == told[-len(ends) :], told
    assert len(ends) == 1 or (len(ends) == 2 and ends[0] is CommandStatus.TIMED_OUT), told


def _assert_done_in_time(rows: Sequence[Any], scooters: Sequence[Scooter]) -> None:
    by_id = {row["request_id"]: row for row in rows}
    done = [each for scooter in scooters for each in scooter.executed]
    assert [each for each, times in Counter(e.request_id for e in done).items() if times > 1] == []
    for each in done:
        row = by_id[each.request_id]
        until_ms = row["expires_at"].timestamp() * 1000
        assert until_ms <= row["requested_at"].timestamp() * 1000 + row["ttl_s"] * 1000 + 1
        assert each.at_ms <= until_ms, (each, row)
        assert each.exp_ms is not None
        assert each.up_ms <= each.exp_ms
        assert row["scooter_id"] == each.scooter_id
        assert row["status"] not in _NEVER_DONE, row
    succeeded = {row["request_id"] for row in rows if row["status"] == "succeeded"}
    assert succeeded <= {each.request_id for each in done} | {
        row["request_id"] for row in rows if row["command"] == "cancel"
    }
