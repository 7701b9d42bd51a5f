"""Standing: who is not heard becomes a reject that says why, and a true end still counts."""

from collections.abc import AsyncIterator, Sequence

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from devices.contract.topics import Uplink
from devices.registry import NewScooter, Registry, Standing
from gateway.links.delivery import Delivery, Outcome
from gateway.metrics import Metrics
from gateway.registry_copy import RegistryCopy
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.ingest import ingest
from tests.history import Receipts, events, history, rejects
from tests.registry_copies import following, loaded, until
from tests.telemetry import NOW_MS, Fleet, ack, batch, delivery, event, status, telemetry

pytestmark = pytest.mark.integration

ID = "SC-0001"
KEPT_OUT = [None, Standing.SUSPENDED, Standing.RETIRED]
SAID = [
    telemetry(ID, batt=1),
    batch(ID, {"boot": 1, "seq": 1, "batt": 1}),
    event(ID, "1-1"),
    ack(ID, boot=1, seq=2, lock="locked"),
    status(ID, "online", boot=1, conn=1),
]


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def copy(pool: asyncpg.Pool, redis: Redis) -> AsyncIterator[RegistryCopy]:
    async with following(pool, redis) as copy:
        await loaded(copy)
        yield copy


class OneBatch:
    is_abandoned = False
    received_ms = NOW_MS

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries = list(deliveries)
        self.outcomes: list[str] = []

    def settle(self, outcomes: Sequence[Outcome | None]) -> None:
        self.outcomes += [str(outcome) for outcome in outcomes]


async def say(
    fleet: Fleet, copy: RegistryCopy, *deliveries: Delivery, metrics: Metrics | None = None
) -> list[str]:
    """What became of each delivery."""
    one = OneBatch(deliveries)

    async def inbox() -> AsyncIterator[OneBatch]:
        yield one

    async def refill() -> None:
        raise AssertionError

    await ingest(
        inbox(),
        states=fleet.states,
        refill=refill,
        metrics=metrics or Metrics(),
        session="telemetry",
        registry=copy,
    )
    return one.outcomes


async def stand(pool: asyncpg.Pool, copy: RegistryCopy, standing: Standing | None) -> None:
    """Give the scooter this standing, and wait until the copy knows."""
    if standing is not None:
        await Registry(pool).add([NewScooter(ID)], by="me")
        await Registry(pool).set_standing(ID, standing, by="me")
    await until(copy, ID, standing)


@pytest.mark.parametrize("standing", KEPT_OUT, ids=str)
async def test_what_a_scooter_that_is_kept_out_says_is_a_reject_that_says_why(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy, standing: Standing | None
) -> None:
    await stand(pool, copy, standing)
    metrics, receipts = Metrics(), Receipts()
    why = str(standing or "unknown")

    outcomes = await say(fleet, copy, *SAID, metrics=metrics)

    assert outcomes == ["rejected"] * 5
    assert metrics.value("gateway_rejects_total", reason=why) == 5
    assert await fleet.state(ID) == {}
    kept = await fleet.history()
    assert {(kind, scooter_id) for kind, scooter_id, _ in kept} == {("reject", ID)}
    assert all(body["reason"].startswith(f"scooter: {why}") for *_, body in kept)

    # An event is stored as a reject, so its scooter need not send it for ever.
    await history(fleet.redis, pool, receipts).take()
    assert receipts.sent == [(ID, ["1-1"])]
    assert await events(pool) == []
    assert sum((await rejects(pool)).values()) == 5


@pytest.mark.parametrize("standing", [Standing.REGISTERED, Standing.ACTIVE])
async def test_registered_and_active_scooters_are_heard(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy, standing: Standing
) -> None:
    await stand(pool, copy, standing)

    outcomes = await say(fleet, copy, *SAID)

    assert outcomes == ["applied", "late", "event", "ack", "presence"]
    assert (await fleet.state(ID))["presence"] == "online"


@pytest.mark.parametrize("standing", KEPT_OUT, ids=str)
@pytest.mark.parametrize("word", ["online", "offline", "sleeping", "lost"])
async def test_what_the_broker_repeats_of_it_and_an_empty_status_make_no_noise(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy, standing: Standing | None, word: str
) -> None:
    await stand(pool, copy, standing)
    empty = delivery(ID, Uplink.STATUS, b"")

    outcomes = await say(fleet, copy, status(ID, word, boot=1, conn=1, retain=True), empty)

    assert outcomes == ["presence", "presence"]
    assert await fleet.everything(ID) == await fleet.everything("SC-never")
    assert await fleet.history() == []


@pytest.mark.parametrize(("word", "presence"), [("offline", "offline"), ("lost", "lost")])
async def test_the_end_of_a_suspended_scooters_session_is_true(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy, word: str, presence: str
) -> None:
    await stand(pool, copy, Standing.ACTIVE)
    await say(fleet, copy, status(ID, "online", boot=1, conn=1))
    await stand(pool, copy, Standing.SUSPENDED)

    assert await say(fleet, copy, status(ID, word, boot=1, conn=1)) == ["presence"]
    await fleet.sweep_after(11)

    assert (await fleet.state(ID))["presence"] == presence


@pytest.mark.parametrize("word", ["offline", "sleeping", "lost"])
async def test_the_end_of_a_retired_scooters_session_brings_nothing_back(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy, word: str
) -> None:
    await stand(pool, copy, Standing.RETIRED)

    assert await say(fleet, copy, status(ID, word, boot=1, conn=1)) == ["presence"]

    assert await fleet.everything(ID) == await fleet.everything("SC-never")
    assert await fleet.history() == []


async def test_the_will_of_a_stranger_is_a_reject(fleet: Fleet, copy: RegistryCopy) -> None:
    assert await say(fleet, copy, status(ID, "lost", boot=1, conn=1)) == ["rejected"]


async def test_a_scooter_is_heard_again_as_soon_as_it_is_resumed(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy
) -> None:
    await stand(pool, copy, Standing.SUSPENDED)
    assert await say(fleet, copy, telemetry(ID, batt=1)) == ["rejected"]

    await stand(pool, copy, Standing.ACTIVE)

    assert await say(fleet, copy, telemetry(ID, batt=1)) == ["applied"]


async def test_one_who_is_kept_out_does_not_keep_others_from_being_heard(
    fleet: Fleet, pool: asyncpg.Pool, copy: RegistryCopy
) -> None:
    await stand(pool, copy, Standing.ACTIVE)
    deliveries = [telemetry("SC-0002", batt=5), telemetry(ID, batt=7), event("SC-0003", "1")]

    assert await say(fleet, copy, *deliveries) == ["rejected", "applied", "rejected"]

    assert (await fleet.state(ID))["battery_percent"] == "7"
    kept = [orjson.dumps(body).decode() for *_, body in await fleet.history()]
    assert all("scooter devices add" in body for body in kept)
