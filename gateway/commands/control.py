"""The control session's batches: requests are recorded and settled, the rest goes on."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from devices.contract.topics import REQUESTS
from gateway.commands.acks import States
from gateway.commands.requests import Requests
from gateway.errors import ServerAway, StateLost
from gateway.links.delivery import Delivery, Outcome
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.telemetry.entries import reject
from gateway.telemetry.ingest import Batch


class Registry(Protocol):
    """Whose rights are asked: known from `loaded` on."""

    loaded: asyncio.Event


async def without_requests(
    batches: AsyncIterable[Batch],
    requests: Requests,
    *,
    states: States,
    registry: Registry,
    metrics: Metrics,
) -> AsyncIterator[Batch]:
    """Yield each batch once its requests are settled, unless nothing else is in it."""
    outage = Outage("taking requests", most_s=5.0)
    async for batch in batches:
        if any(each.topic.startswith(REQUESTS) for each in batch.deliveries):
            await registry.loaded.wait()
            while not batch.is_abandoned:
                try:
                    outcomes = await _take(batch, requests, states=states, metrics=metrics)
                except (ServerAway, StateLost) as error:
                    await asyncio.sleep(outage.away(error))
                else:
                    outage.back()
                    if not batch.is_abandoned:
                        batch.settle(outcomes)
                    break
        if batch.deliveries:
            yield batch


async def _take(
    batch: Batch, requests: Requests, *, states: States, metrics: Metrics
) -> list[Outcome | None]:
    """Raises ServerAway or StateLost: then nothing is settled, and asking again is harmless."""
    asked = [each for each in batch.deliveries if each.topic.startswith(REQUESTS)]
    reasons = iter(await requests.accept(asked))
    outcomes: list[Outcome | None] = []
    rejects: list[tuple[Delivery, str]] = []
    for each in batch.deliveries:
        if not each.topic.startswith(REQUESTS):
            outcomes.append(None)
        elif (reason := next(reasons)) is None:
            outcomes.append(Outcome.REQUEST)
        else:
            outcomes.append(Outcome.REJECTED)
            rejects.append((each, reason))
    await _keep(rejects, states=states, metrics=metrics, received_ms=batch.received_ms)
    return outcomes


async def _keep(
    rejects: Sequence[tuple[Delivery, str]], *, states: States, metrics: Metrics, received_ms: int
) -> None:
    if rejects:
        entries = [reject(delivery, reason, why="request") for delivery, reason in rejects]
        advanced = await states.advance(entries, received_ms=received_ms)
        metrics.history_dropped.inc(advanced.dropped)
        metrics.rejects.labels(reason="request").inc(len(entries))
