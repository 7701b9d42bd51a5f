"""The downlink's client where the library would lose a cancellation."""

import asyncio

import pytest
from aiomqtt import MqttError

from gateway.links.downlink import _Client


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_meets_the_answer_is_kept(turns: int) -> None:
    answer = asyncio.Event()
    waiting = asyncio.create_task(_Client("nowhere")._wait_for(answer.wait(), timeout=None))  # noqa: SLF001
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    answer.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    is_asked = waiting.cancel()
    await asyncio.wait({waiting})

    assert waiting.cancelled() == is_asked


async def test_an_answer_that_never_comes_is_told_as_by_the_library() -> None:
    with pytest.raises(MqttError, match="timed out"):
        await _Client("nowhere")._wait_for(asyncio.Event().wait(), timeout=0.01)  # noqa: SLF001
