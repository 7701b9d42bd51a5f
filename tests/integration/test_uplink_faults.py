"""The uplink under faults: the account balances at every moment and nothing is lost."""

import asyncio
import random

from gateway.links.broker import BrokerAddress
from gateway.links.delivery import Outcome
from gateway.links.uplink import Session
from gateway.metrics import Metrics
from tests.mqtt_session import Running, always, plan, send
from tests.proxy import Proxy


async def settle_in_pieces(run: Running, seen: set[bytes], chance: random.Random) -> None:
    """A consumer that settles late and out of order, and leaves out some at first."""
    async for batch in run.session.batches():
        while batch.deliveries and not batch.is_abandoned:
            outcomes = [
                Outcome.APPLIED if chance.random() < 0.7 else None for _ in batch.deliveries
            ]
            kept = zip(batch.deliveries, outcomes, strict=True)
            seen |= {delivery.payload for delivery, outcome in kept if outcome}
            batch.settle(outcomes)
            assert run.balance() == 0
            await asyncio.sleep(0)


async def test_cut_again_and_again_nothing_is_lost_and_the_account_balances(
    broker: BrokerAddress, fresh_id: str
) -> None:
    chance = random.Random(4)  # noqa: S311
    payloads = [b"%d" % number for number in range(3000)]
    seen: set[bytes] = set()
    metrics = Metrics()
    async with Proxy(broker.host, broker.port) as proxy:
        through = BrokerAddress(
            host="127.0.0.1",
            port=proxy.port,
            username=broker.username,
            password=broker.password,
        )
        session = Session(plan(fresh_id, held_max=256), through, metrics, may_connect=always)
        run = Running(session, metrics)
        tasks = [
            asyncio.create_task(session.run()),
            asyncio.create_task(settle_in_pieces(run, seen, chance)),
        ]
        await run.until(lambda: session.connected, "the session to connect")
        sending = asyncio.create_task(
            send(broker.host, broker.port, f"scooters/{fresh_id}/telemetry", payloads)
        )
        for goal in (200, 700, 1500, 2400):
            await run.until(lambda goal=goal: len(seen) > goal, f"{goal}", within_s=30)  # type: ignore[misc]
            proxy.cut()
            assert run.balance() == 0
        await sending
        await run.until(lambda: len(seen) == 3000, "every payload", within_s=30)
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks)
        assert all(task.cancelled() for task in done)
    assert seen == set(payloads)
    assert run.count("deliveries_in_flight") == 0
    assert run.balance() == 0
