"""Ingest: nothing is settled before it is kept, and each delivery ends in one outcome."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.contract.topics import Uplink
from devices.standing import Standing
from gateway.errors import ServerAway, StateLost
from gateway.links.delivery import Delivery, Outcome
from gateway.metrics import Metrics
from gateway.telemetry.entries import Entry
from gateway.telemetry.ingest import SAMPLES_AT_ONCE, Registry, _portion, ingest
from gateway.telemetry.state_store import FOREIGN, FULL, Advanced
from tests.telemetry import NOW_MS, delivery, event, telemetry

GOOD = {"telemetry": "applied", "event": "event", "reject": "rejected", "batch": "applied"}


class Journal:
    """What happened, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []


class FakeBatch:
    """A batch that remembers how each of its deliveries was settled."""

    def __init__(self, journal: Journal, deliveries: Sequence[Delivery]) -> None:
        self._journal = journal
        self.deliveries = list(deliveries)
        self.received_ms = NOW_MS
        self.is_abandoned = False
        self.settled: list[tuple[Delivery, Outcome]] = []

    def settle(self, outcomes: Sequence[Outcome | None]) -> None:
        self._journal.steps.append("settle")
        both = list(zip(self.deliveries, outcomes, strict=True))
        self.settled += [(each, outcome) for each, outcome in both if outcome is not None]
        self.deliveries = [each for each, outcome in both if outcome is None]


class FakeStates:
    """Answers with what it was told to, in turn; then keeps everything."""

    def __init__(self, journal: Journal, *answers: Exception | str) -> None:
        self._journal = journal
        self._answers = list(answers)
        self.calls: list[list[Entry]] = []

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced:
        assert received_ms == NOW_MS
        self.calls.append(list(entries))
        answer = self._answers.pop(0) if self._answers else None
        self._journal.steps.append("keep" if answer is None else str(answer))
        if isinstance(answer, Exception):
            raise answer
        outcomes = [GOOD[entry["k"]] for entry in entries]
        if answer is not None:
            outcomes = [
                outcome if entry["k"] == "reject" else answer
                for entry, outcome in zip(entries, outcomes, strict=True)
            ]
        return Advanced(outcomes, dropped=2 if answer == FULL else 0)


async def run(
    batches: Sequence[FakeBatch],
    states: FakeStates,
    journal: Journal,
    metrics: Metrics | None = None,
    *,
    refills: Sequence[Exception | None] = (),
    registry: Registry | None = None,
) -> None:
    answers = list(refills)

    async def refill() -> None:
        journal.steps.append("refill")
        if answers and (error := answers.pop(0)):
            raise error

    async def inbox() -> AsyncIterator[FakeBatch]:
        for batch in batches:
            yield batch

    await ingest(
        inbox(),
        states=states,
        refill=refill,
        metrics=metrics or Metrics(),
        session="telemetry",
        registry=registry,
    )


class Watched(FakeStates):
    """Takes a few turns of the event loop for each call, and tells when it begins and ends."""

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced:
        self._journal.steps.append(f"begin {entries[0]['id']}")
        for _ in range(5):
            await asyncio.sleep(0)
        advanced = await super().advance(entries, received_ms=received_ms)
        self._journal.steps.append(f"end {entries[0]['id']}")
        return advanced


class Listed:
    """A registry in which everybody is active, and which tells who was asked for."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.loaded = asyncio.Event()
        self.loaded.set()

    def standing(self, scooter_id: str) -> Standing:
        self._journal.steps.append(f"decode {scooter_id}")
        return Standing.ACTIVE


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backoff of our own `Outage`, without its seconds."""
    monkeypatch.setattr("gateway.outage.random.uniform", lambda _low, _high: 0.001)


DELIVERIES = [
    telemetry("SC-0001", batt=1),
    delivery("SC-0001", Uplink.TELEMETRY, b"?"),
    event("SC-0001", "1"),
]


async def test_a_batch_is_settled_after_it_is_kept() -> None:
    journal = Journal()
    batch = FakeBatch(journal, DELIVERIES)

    await run([batch], FakeStates(journal), journal)

    assert journal.steps == ["keep", "settle"]
    assert [outcome for _, outcome in batch.settled] == ["applied", "rejected", "event"]


async def test_a_redis_that_is_away_is_asked_again_and_nothing_settled_before() -> None:
    journal = Journal()
    away = ServerAway("redis", "gone")
    states = FakeStates(journal, away, away, away)
    batch = FakeBatch(journal, DELIVERIES)

    await run([batch], states, journal)

    assert journal.steps == [*["redis is away: gone"] * 3, "keep", "settle"]
    assert states.calls[0] == states.calls[-1]


async def test_an_emptied_redis_is_refilled_before_anything_is_settled() -> None:
    journal = Journal()
    batch = FakeBatch(journal, DELIVERIES)
    states = FakeStates(journal, StateLost("empty"), StateLost("empty"))

    await run([batch], states, journal, refills=[ServerAway("postgres", "gone"), None])

    assert journal.steps == ["empty", "refill", "empty", "refill", "keep", "settle"]


async def test_a_full_history_holds_its_deliveries_until_there_is_room() -> None:
    journal, metrics = Journal(), Metrics()
    batch = FakeBatch(journal, DELIVERIES)
    states = FakeStates(journal, FULL, FULL)

    await run([batch], states, journal, metrics)

    assert [len(call) for call in states.calls] == [3, 2, 2]
    assert [outcome for _, outcome in batch.settled] == ["rejected", "applied", "event"]
    assert metrics.registry.get_sample_value("gateway_history_dropped_total") == 4


async def test_a_foreign_key_makes_rejects_at_once() -> None:
    journal = Journal()
    batch = FakeBatch(journal, DELIVERIES)
    states = FakeStates(journal, FOREIGN)

    await run([batch], states, journal)

    assert [outcome for _, outcome in batch.settled] == ["rejected"] * 3
    assert [entry["k"] for entry in states.calls[1]] == ["reject", "reject"]
    assert "scooter:SC-0001 in Redis is not a state" in states.calls[1][0]["b"]


async def test_an_abandoned_batch_is_dropped_and_the_next_one_taken() -> None:
    journal = Journal()
    lost, kept = FakeBatch(journal, DELIVERIES), FakeBatch(journal, DELIVERIES[:1])
    lost.is_abandoned = True

    await run([lost, kept], FakeStates(journal), journal)

    assert (lost.settled, len(kept.settled)) == ([], 1)


async def test_a_batch_abandoned_while_redis_is_away_is_not_brought_again() -> None:
    journal = Journal()
    batch = FakeBatch(journal, DELIVERIES)

    class Abandoning(FakeStates):
        async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced:
            batch.is_abandoned = True
            return await super().advance(entries, received_ms=received_ms)

    await run([batch], Abandoning(journal, ServerAway("redis", "gone")), journal)

    assert journal.steps == ["redis is away: gone"]


class FakeRegistry:
    """Knows these standings, once it is loaded."""

    def __init__(self, **standings: Standing) -> None:
        self._standings = {f"SC-{name}": standing for name, standing in standings.items()}
        self.loaded = asyncio.Event()

    def standing(self, scooter_id: str) -> Standing | None:
        return self._standings.get(scooter_id)


async def test_nothing_is_kept_or_settled_before_it_is_known_who_is_heard() -> None:
    journal, registry = Journal(), FakeRegistry(**{"0001": Standing.ACTIVE})
    batch = FakeBatch(journal, DELIVERIES)
    running = asyncio.create_task(run([batch], FakeStates(journal), journal, registry=registry))

    for _ in range(20):
        await asyncio.sleep(0)
    assert journal.steps == []
    registry.loaded.set()
    await running

    assert [outcome for _, outcome in batch.settled] == ["applied", "rejected", "event"]


async def test_rejects_are_counted_by_why_and_once_however_often_they_are_brought() -> None:
    journal, metrics, registry = Journal(), Metrics(), FakeRegistry(b=Standing.SUSPENDED)
    registry.loaded.set()
    deliveries = [telemetry("SC-a"), telemetry("SC-b"), event("SC-b", "1"), telemetry("x")]
    deliveries.append(delivery("SC-b", Uplink.TELEMETRY, b"?"))
    states = FakeStates(journal, ServerAway("redis", "gone"))

    await run([FakeBatch(journal, deliveries)], states, journal, metrics, registry=registry)

    counts = {
        why: metrics.value("gateway_rejects_total", reason=why)
        for why in ("unknown", "suspended", "retired", "message")
    }
    assert counts == {"unknown": 1, "suspended": 2, "retired": 0, "message": 2}


ANSWERS = st.sampled_from([FULL, FOREIGN, ServerAway("redis", "x"), StateLost("x")])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    answers=st.lists(ANSWERS, max_size=6),
)
def test_each_delivery_ends_in_exactly_one_outcome(
    sizes: list[int], answers: list[Exception | str]
) -> None:
    journal = Journal()
    batches = [FakeBatch(journal, (DELIVERIES * 2)[:size]) for size in sizes]
    brought = [list(batch.deliveries) for batch in batches]

    asyncio.run(run(batches, FakeStates(journal, *answers), journal))

    for batch, deliveries in zip(batches, brought, strict=True):
        assert batch.deliveries == []
        assert sorted(map(id, deliveries)) == sorted(id(each) for each, _ in batch.settled)


def test_a_call_takes_no_more_samples_than_redis_can_fold_in_a_moment() -> None:
    batches = [{"k": "batch", "s": [{}] * 100} for _ in range(256)]

    assert _portion(batches) == SAMPLES_AT_ONCE // 100
    assert _portion([{"k": "telemetry"}] * 256) == 256
    assert _portion([{"k": "batch", "s": [{}] * (SAMPLES_AT_ONCE + 1)}]) == 1


async def test_two_that_share_a_turn_keep_batches_in_order_and_one_decodes_meanwhile() -> None:
    journal = Journal()
    ids = [f"SC-{number:04}" for number in range(8)]
    left = [FakeBatch(journal, [telemetry(each, batt=1)]) for each in ids]
    batches, states, turn = list(left), Watched(journal, ServerAway("redis", "x")), asyncio.Lock()

    async def inbox() -> AsyncIterator[FakeBatch]:
        while left:
            yield left.pop(0)
            await asyncio.sleep(0)

    async def refill() -> None:
        raise AssertionError("nothing was lost")

    async def keep() -> None:
        await ingest(
            inbox(),
            states=states,
            refill=refill,
            metrics=Metrics(),
            session="telemetry",
            registry=Listed(journal),
            turn=turn,
        )

    await asyncio.gather(keep(), keep())

    calls = [step for step in journal.steps if step.startswith(("begin", "end"))]
    first, *others = [[f"begin {each}", f"end {each}"] for each in ids]
    assert calls == sum(others, [first[0], *first])  # the first was tried again
    assert all(
        journal.steps.index(f"decode {later}") < journal.steps.index(f"end {earlier}")
        for earlier, later in itertools.pairwise(ids)
    )
    assert [len(batch.settled) for batch in batches] == [1] * 8
