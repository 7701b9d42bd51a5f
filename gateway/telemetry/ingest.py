"""Journey 1 in one function: deliveries become states and history, then they are settled."""

import asyncio
from collections.abc import AsyncIterable, Sequence
from time import perf_counter
from typing import Final, Protocol

import structlog

from devices.standing import Standing
from gateway.errors import ServerAway, StateLost
from gateway.links.delivery import Delivery, Outcome
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.telemetry.entries import Entry, entry_of, everybody, reject
from gateway.telemetry.state_store import FOREIGN, FULL, Advanced

log = structlog.get_logger()

_OUTCOMES: Final = {str(outcome): outcome for outcome in Outcome} | {FULL: None, FOREIGN: None}

SAMPLES_AT_ONCE: Final = 1000
"""Samples of batches in one call at most, besides single reports."""


class Batch(Protocol):
    """Deliveries of one connection, and the way to say that we are done with them."""

    deliveries: list[Delivery]
    received_ms: int

    @property
    def is_abandoned(self) -> bool: ...

    def settle(self, outcomes: Sequence[Outcome | None]) -> None: ...


class States(Protocol):
    """Where a batch is kept, all of it in one round trip."""

    async def advance(self, entries: Sequence[Entry], *, received_ms: int) -> Advanced: ...


class Refill(Protocol):
    """Brings the states back into an emptied Redis; raises ServerAway while it cannot."""

    async def __call__(self) -> object: ...


class Registry(Protocol):
    """Who is heard: known at once, from `loaded` on."""

    loaded: asyncio.Event

    def standing(self, scooter_id: str) -> Standing | None: ...


async def ingest(
    batches: AsyncIterable[Batch],
    *,
    states: States,
    refill: Refill,
    metrics: Metrics,
    session: str,
    registry: Registry | None = None,
    turn: asyncio.Lock | None = None,
) -> None:
    """Decode, keep, settle: a batch at a time, and nothing is settled before it is kept.

    Without a registry everybody is heard; one that is not loaded yet is waited for. Two that
    share a session and a `turn` keep its batches in their order: while one waits for Redis, the
    other decodes.
    """
    turn = turn or asyncio.Lock()
    standing_of = registry.standing if registry is not None else everybody
    outage = Outage(f"keeping {session}", most_s=5.0)
    room = Outage("room in the history", most_s=1.0)
    async for batch in batches:
        if registry is not None and not registry.loaded.is_set():
            await registry.loaded.wait()
        received_ms = batch.received_ms
        entries = [entry_of(each, standing_of) for each in batch.deliveries]
        async with turn:
            while entries and not batch.is_abandoned:
                part = entries[: _portion(entries)]
                try:
                    started = perf_counter()
                    advanced = await states.advance(part, received_ms=received_ms)
                    metrics.advance_seconds.observe(perf_counter() - started)
                except StateLost:
                    wait_s = await _refilled(refill, outage)
                except ServerAway as error:
                    wait_s = outage.away(error)
                else:
                    metrics.history_dropped.inc(advanced.dropped)
                    count_rejects(part, advanced.outcomes, metrics)
                    left = settle_kept(batch, part, advanced.outcomes)
                    entries = left + entries[len(part) :]
                    outage.back()
                    wait_s = _condition(room, left)
                if wait_s:
                    await asyncio.sleep(wait_s)


def settle_kept(batch: Batch, entries: list[Entry], outcomes: list[str]) -> list[Entry]:
    """Settle what was kept of the first deliveries; returns the entries to bring again."""
    left = []
    waiting = len(batch.deliveries) - len(outcomes)
    for delivery, entry, outcome in zip(batch.deliveries, entries, outcomes, strict=False):
        if outcome == FULL:
            left.append(entry)
        elif outcome == FOREIGN:
            left.append(reject(delivery, f"scooter:{entry['id']} in Redis is not a state"))
    if not batch.is_abandoned:
        batch.settle([_OUTCOMES[outcome] for outcome in outcomes] + [None] * waiting)
    return left


def count_rejects(entries: list[Entry], outcomes: list[str], metrics: Metrics) -> None:
    """Count what was kept as a reject, by why."""
    if Outcome.REJECTED in outcomes:
        for entry, outcome in zip(entries, outcomes, strict=False):
            if outcome == Outcome.REJECTED:
                metrics.rejects.labels(reason=entry["w"]).inc()


def _portion(entries: list[Entry]) -> int:
    """How many of them make one call: a script that runs long stops all of Redis meanwhile."""
    samples = 0
    for number, entry in enumerate(entries):
        samples += len(entry.get("s", ""))
        if samples > SAMPLES_AT_ONCE:
            return max(1, number)
    return len(entries)


async def _refilled(refill: Refill, outage: Outage) -> float:
    try:
        await refill()
    except ServerAway as error:
        return outage.away(error)
    return 0.0


def _condition(room: Outage, left: list[Entry]) -> float:
    """Seconds to wait before what is left can be brought again: only a full history waits."""
    if any(entry["k"] != "reject" for entry in left):
        return room.away("full until Postgres has taken some of it")
    room.back()
    return 0.0
