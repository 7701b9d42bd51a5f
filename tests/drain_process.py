"""A gateway's drain as a process of its own, that dies by SIGKILL after a step of its first page.

Run as `python -m tests.drain_process REDIS_URL POSTGRES_URL STEP`.
"""

import asyncio
import os
import signal
import sys

from gateway.metrics import Metrics
from gateway.storage.postgres import open_postgres
from gateway.storage.redis import open_redis
from gateway.telemetry.history import drain
from tests.history import Receipts


async def main(redis_url: str, postgres_url: str, last_step: str) -> None:
    async def step(name: str) -> None:
        if name == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    async with open_redis(redis_url) as redis, open_postgres(postgres_url) as pool:
        await drain(redis, pool, send_receipts=Receipts(), metrics=Metrics(), step=step)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
