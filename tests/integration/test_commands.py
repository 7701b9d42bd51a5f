"""Journey 2 on real servers: request, ledger, dispatch, ack, reply."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.commanding import FakeOperator, FakeScooter, Stage
from tests.eventually import eventually
from tests.registration import register
from tests.services import MosquittoService


@pytest.fixture
def stage(mosquitto: MosquittoService, redis_url: str, postgres_url: str) -> Stage:
    return Stage(mosquitto, redis_url, postgres_url)


@asynccontextmanager
async def cast(
    stage: Stage, scooter_id: str, **settings: object
) -> AsyncIterator[tuple[FakeScooter, FakeOperator]]:
    """A gateway, one scooter that is online and one operator that may do everything."""
    await register(stage.postgres_url, [scooter_id])
    await stage.grant()
    async with (
        stage.gateway(f"g-{scooter_id}", **settings),
        stage.scooter(scooter_id) as scooter,
        stage.operator() as operator,
    ):
        await scooter.born()
        await scooter.report(lock="locked", tip=False, batt=80)

        async def known() -> bool:
            ref = await operator.ask(scooter_id, "get_state")
            return bool((await operator.ended(ref))["status"] == "succeeded")

        await eventually(known, within_s=30.0, what="the scooter to be known")
        yield scooter, operator


async def test_a_command_is_recorded_sent_answered_and_replied(
    stage: Stage, scooter_id: str
) -> None:
    async with cast(stage, scooter_id) as (scooter, operator):
        ref = await operator.ask(scooter_id, "unlock", reason="a customer")
        end = await operator.ended(ref)
        assert end["status"] == "succeeded"
        assert operator.story(ref) == ["sent", "received", "succeeded"]
        assert await stage.moves(ref) == operator.story(ref)
        assert [each["move"] for each in operator.replies if each["ref"] == ref] == [1, 2, 3]
        command = scooter.commands[-1]
        assert command["command"] == "unlock"
        assert command["request_id"] == end["request_id"]
        assert command["boot"] == 1
        assert scooter.up < command["exp"] <= scooter.up + 20_000
