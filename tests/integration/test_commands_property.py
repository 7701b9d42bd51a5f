"""Random interleavings of requests, acks, telemetry, time and restarts, on a real ledger.

The scooter in the model keeps to the contract: it obeys nothing past its uptime, nothing of
another boot, no old number, and nothing twice.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from devices.contract import mac, topics
from devices.contract.commands import COMMANDS, CommandStatus, parse_command
from gateway.commands.lifecycle import NEXT, OPEN
from gateway.errors import ServerAway
from gateway.links.delivery import Delivery
from gateway.links.downlink import Published, PublishUnknown
from tests.command_office import (
    SECRET,
    FakePublisher,
    FakeRights,
    Office,
    Sent,
    Traveller,
    is_there,
    now_ms,
    ref_of,
    request,
)
from tests.commanding import FIRST

SCOOTERS = ("SC-P01", "SC-P02")
PARAMS: dict[str, dict[str, Any]] = {"set_speed_limit": {"kmh": 9}, "headlight": {"on": True}}
NAMES = ("unlock", "lock", "unlock", "set_speed_limit", "headlight", "reboot")

WHO = st.sampled_from([SCOOTERS[0]] * 4 + [SCOOTERS[1]])
ANY = st.integers(0, 9)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), WHO, st.sampled_from(NAMES)),
        st.tuples(st.just("ask late"), WHO, st.integers(1, 60)),
        st.tuples(st.just("ask again"), ANY),
        st.tuples(st.just("pass on")),
        st.tuples(st.just("pass on")),
        st.tuples(st.just("dispatch"), st.sampled_from(["taken", "nobody", "unknown", "away"])),
        st.tuples(st.just("deliver"), ANY, st.booleans()),
        st.tuples(st.just("answer"), ANY, st.booleans()),
        st.tuples(st.just("travel"), st.sampled_from([0.3, 7.0, 7.0, 19.5, 70.0])),
        st.tuples(st.just("presence"), WHO, st.booleans()),
        st.tuples(st.just("boot"), WHO),
        st.tuples(st.just("report"), WHO),
        st.tuples(st.just("sweep")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("reply")),
    ),
    min_size=8,
    max_size=40,
)


FIRST_SCOOTER = st.just(SCOOTERS[0])
TROUBLE = st.lists(
    st.one_of(
        st.tuples(st.just("pass on")),
        st.tuples(st.just("dispatch"), st.sampled_from(["unknown", "away"])),
        st.tuples(st.just("deliver"), ANY, st.just(True)),  # noqa: FBT003 - keeps it
        st.tuples(st.just("answer"), ANY, st.booleans()),
        st.tuples(st.just("travel"), st.sampled_from([0.3, 7.0, 7.0])),
        st.tuples(st.just("boot"), FIRST_SCOOTER),
        st.tuples(st.just("restart")),
    ),
    min_size=3,
    max_size=12,
)


class ModelScooter:
    """A careful firmware, on the travelling clock."""

    def __init__(self, scooter_id: str, traveller: Traveller) -> None:
        self.scooter_id = scooter_id
        self._traveller = traveller
        self._began = traveller.now() - 60.0
        self.boot = 7
        self.is_online = True
        self.lock = "locked"
        self.seq = 1
        self._greatest = 0
        self._answers: dict[str, dict[str, Any]] = {}
        self.executed: list[tuple[str, str, float]] = []
        """request_id, command and the moment of what it carried out."""

    @property
    def up_ms(self) -> int:
        return int((self._traveller.now() - self._began) * 1000)

    def reboot(self) -> None:
        self.boot += 1
        self._began = self._traveller.now()
        self._greatest, self._answers = 0, {}

    def obey(self, payload: bytes) -> list[tuple[str, dict[str, Any]]]:
        command, key = parse_command(payload), mac.command_key(SECRET, self.scooter_id, 1)
        assert mac.verify(key, topics.commands(self.scooter_id), payload)
        if known := self._answers.get(command.request_id):
            return [(command.request_id, known)]
        rejected = {"status": "rejected", "error": "expired"}
        if command.n <= self._greatest:
            return [(command.request_id, rejected | {"error": "replayed"})]
        if command.is_past(boot=self.boot, up_ms=self.up_ms):
            return [(command.request_id, rejected)]
        self._greatest = command.n
        self.executed.append((command.request_id, command.command, self._traveller.now()))
        self.lock = {"lock": "locked", "unlock": "unlocked"}.get(command.command, self.lock)
        self.seq += 1
        done: dict[str, Any] = {"status": "success", "boot": self.boot, "seq": self.seq}
        self._answers[command.request_id] = done
        if command.command == "reboot":
            self.reboot()
        return [(command.request_id, {"status": "received"}), (command.request_id, done)]


class World:
    """Two scooters, one operator, one gateway at a time, and a network that may do anything."""

    def __init__(self, pool: asyncpg.Pool, redis: Redis) -> None:
        self._pool, self._redis = pool, redis
        self.traveller, self.publisher = Traveller(), FakePublisher()
        self.scooters = {each: ModelScooter(each, self.traveller) for each in SCOOTERS}
        self.asked: list[Delivery] = []
        self.asked_at: dict[str, float] = {}
        self.under_way: list[Sent] = []
        self.on_air: list[tuple[str, dict[str, Any], str]] = []
        self.office = self._office()

    def _office(self) -> Office:
        return Office(
            self._pool,
            self._redis,
            rights=FakeRights(),
            publisher=self.publisher,
            traveller=self.traveller,
        )

    async def begin(self) -> None:
        tables = "commands, command_moves, command_replies, command_numbers"
        await self._pool.execute(f"TRUNCATE {tables}")
        await self._redis.delete("scooters:acks")
        for each in SCOOTERS:
            await self._heard(each)

    async def step(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - of any step
        work: Callable[..., Awaitable[None]] = getattr(self, f"_{name.replace(' ', '_')}")
        await work(*arguments)

    async def _ask(self, scooter_id: str, command: str, age_s: int = 0) -> None:
        asked = request(
            scooter_id, command, params=PARAMS.get(command, {}), at=now_ms() - age_s * 1000
        )
        self.asked.append(asked)
        self.asked_at[ref_of(asked)] = self.traveller.now() - age_s
        await self.office.ask(asked)

    async def _ask_late(self, scooter_id: str, age_s: int) -> None:
        await self._ask(scooter_id, "unlock", age_s)

    async def _ask_again(self, number: int) -> None:
        if self.asked:
            await self.office.ask(self.asked[number % len(self.asked)])

    async def _dispatch(self, result: str) -> None:
        results: dict[str, Published | Exception] = {
            "taken": Published.TAKEN,
            "nobody": Published.NOBODY,
            "unknown": PublishUnknown("t"),
            "away": ServerAway("broker", "not there"),
        }
        self.publisher.result = results[result]
        before = len(self.publisher.sent)
        while command := self.office.open.take_due():
            await self.office.dispatcher.send(command)
        self.publisher.result = Published.TAKEN
        if result != "nobody":  # then there is nobody whom it could reach
            self.under_way += self.publisher.sent[before:]

    async def _pass_on(self) -> None:
        """What is due reaches its scooter at once, as on most days."""
        before = len(self.under_way)
        await self._dispatch("taken")
        for each in self.under_way[before:]:
            self._obeyed(each)

    def _obeyed(self, sent: Sent) -> None:
        scooter_id = sent.topic.split("/")[1]
        for request_id, body in self.scooters[scooter_id].obey(sent.payload):
            self.on_air.append((request_id, body, scooter_id))

    async def _deliver(self, number: int, keeps: bool) -> None:  # noqa: FBT001 - drawn
        """Any publish reaches its scooter, in any order, more than once if it `keeps`."""
        if not self.under_way:
            return
        chosen = self.under_way[number % len(self.under_way)]
        if not keeps:
            self.under_way.remove(chosen)
        self._obeyed(chosen)

    async def _answer(self, number: int, keeps: bool) -> None:  # noqa: FBT001 - drawn
        if not self.on_air:
            return
        chosen = self.on_air[number % len(self.on_air)]
        if not keeps:
            self.on_air.remove(chosen)
        request_id, body, scooter_id = chosen
        rest = {name: value for name, value in body.items() if name != "status"}
        assert await self.office.ack(scooter_id, request_id, body["status"], **rest)
        foreign = next(each for each in SCOOTERS if each != scooter_id)
        assert not await self.office.ack(foreign, request_id, "error")

    async def _travel(self, seconds: float) -> None:
        await self.office.travel(seconds)
        for each in SCOOTERS:  # what was heard is so much older
            at = await self._redis.hget(f"scooter:{each}", "uptime_at")
            assert at is not None
            await self._redis.hset(
                f"scooter:{each}", "uptime_at", str(int(at) - int(seconds * 1000))
            )

    async def _presence(self, scooter_id: str, is_online: bool) -> None:  # noqa: FBT001 - drawn
        self.scooters[scooter_id].is_online = is_online
        await self._heard(scooter_id)
        if is_online:
            self.office.dispatcher.came_online(scooter_id)

    async def _boot(self, scooter_id: str) -> None:
        self.scooters[scooter_id].reboot()
        await self._heard(scooter_id)

    async def _report(self, scooter_id: str) -> None:
        self.scooters[scooter_id].seq += 1
        await self._heard(scooter_id)

    async def _heard(self, scooter_id: str) -> None:
        scooter = self.scooters[scooter_id]
        await is_there(
            self._redis,
            scooter_id,
            presence="online" if scooter.is_online else "sleeping",
            lock=scooter.lock,
            lock_order=f"{scooter.boot}:{scooter.seq}:0:11",
            boot=scooter.boot,
            uptime_boot=scooter.boot,
            uptime_ms=scooter.up_ms,
            uptime_at=now_ms(),
        )

    async def _sweep(self) -> None:
        await self.office.overdue.close()
        await self.office.overdue.resolve()
        await self.office.taking_up.look_around()

    async def _restart(self) -> None:
        self.office = self._office()
        await self.office.taking_up.take_up()

    async def _reply(self) -> None:
        await self.office.reply()

    async def end(self) -> None:
        """Time goes by, and nothing else happens."""
        await self._travel(8 * 86_400.0)
        await self._restart()
        await self._dispatch("taken")
        await self.office.overdue.close()
        await self.office.reply()

    async def check(self) -> None:
        rows = await self._pool.fetch("SELECT * FROM commands")
        by_id = {row["request_id"]: row for row in rows}
        assert len(rows) == len(self.asked)
        moves = await self._pool.fetch("SELECT * FROM command_moves ORDER BY request_id, number")
        for row in rows:
            story = [m for m in moves if m["request_id"] == row["request_id"]]
            self._check_story(row, story)
        self._check_replies(by_id, moves)
        self._check_executed(by_id)

    def _check_story(self, row: asyncpg.Record, story: list[asyncpg.Record]) -> None:
        path = [CommandStatus(each["status"]) for each in story]
        assert [each["number"] for each in story] == list(range(1, len(story) + 1))
        assert path[-1] == row["status"]
        assert len(story) == row["moves"]
        assert path[0] in FIRST
        for before, after in itertools.pairwise(path):
            assert after in NEXT[before], path
        ends = [status for status in path if status not in OPEN]
        assert len(ends) == 1 or (len(ends) == 2 and ends[0] is CommandStatus.TIMED_OUT), path

    def _check_replies(self, by_id: dict[str, asyncpg.Record], moves: list[asyncpg.Record]) -> None:
        """Each command's replies are its story in order, or that story begun anew."""
        told: dict[str, list[tuple[int, str]]] = {}
        for each in self.publisher.replies():
            told.setdefault(each["request_id"], []).append((each["move"], each["status"]))
        assert told.keys() == by_id.keys()
        for request_id, replies in told.items():
            story = {(m["number"], m["status"]) for m in moves if m["request_id"] == request_id}
            assert set(replies) == story
            numbers = [number for number, _ in replies]
            for before, after in itertools.pairwise(numbers):
                assert after in (before + 1, 1), numbers
            assert numbers[0] == 1

    def _check_executed(self, by_id: dict[str, asyncpg.Record]) -> None:
        for scooter in self.scooters.values():
            done = Counter(request_id for request_id, _, _ in scooter.executed)
            for request_id, command, at in scooter.executed:
                row = by_id[request_id]
                assert row["status"] not in {"refused", "queued"}
                if not COMMANDS[command].waits:
                    late_s = at - self.asked_at[row["ref"]] - COMMANDS[command].ttl_s
                    assert late_s <= 0.05, f"{command} {late_s} s late"
                    assert done[request_id] == 1, f"{command} twice"


@pytest.fixture
def world(postgres_url: str, redis_url: str) -> Iterator[Callable[[Any], None]]:
    """Runs a list of steps in a world of its own, on one event loop for all examples."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()

    async def begin() -> tuple[asyncpg.Pool, Redis]:
        pool = await stack.enter_async_context(
            asyncpg.create_pool(postgres_url, min_size=1, max_size=3)
        )
        return pool, await stack.enter_async_context(Redis.from_url(redis_url))

    pool, redis = loop.run_until_complete(begin())

    async def live(steps: list[tuple[Any, ...]]) -> None:
        made = World(pool, redis)
        await made.begin()
        for step in steps:
            await made.step(*step)
        await made.end()
        await made.check()

    try:
        yield lambda steps: loop.run_until_complete(live(steps))
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()


EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@EXAMPLES
@given(steps=STEPS)
def test_whatever_happens_each_command_ends_once_and_nothing_is_done_late_or_twice(
    world: Callable[[Any], None], steps: list[tuple[Any, ...]]
) -> None:
    world(steps)


@EXAMPLES
@given(command=st.sampled_from(["unlock", "lock", "reboot"]), steps=TROUBLE)
def test_one_command_in_trouble_is_done_once_at_most_and_in_time(
    world: Callable[[Any], None], command: str, steps: list[tuple[Any, ...]]
) -> None:
    world([("ask", SCOOTERS[0], command), ("pass on",), *steps])
