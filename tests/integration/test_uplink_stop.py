"""A session that is told to stop at any moment ends as told."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.links.broker import BrokerAddress
from gateway.links.uplink import Session
from gateway.metrics import Metrics
from tests.mqtt_session import always, plan

TURNS = 40


async def stop_at_each_turn_of_the_loop(port: int) -> None:
    broker = BrokerAddress(host="127.0.0.1", port=port)
    for turns in range(TURNS):
        session = Session(plan("stopped"), broker, Metrics(), may_connect=always)
        running = asyncio.create_task(session.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=30)
        assert [task.cancelled() for task in done] == [True], turns


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_session_is_stopped_at_any_moment_of_its_connecting(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2 * TURNS) as never_answers:
        run(stop_at_each_turn_of_the_loop(never_answers.getsockname()[1]))
