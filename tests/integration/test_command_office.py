"""Journey 2 as the service builds it: what waits for what at a start."""

import asyncio
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis

from devices.contract import mac, topics
from gateway.commands.office import CommandOffice
from gateway.links.lease import PRIMARY, Lease
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.storage.postgres import open_postgres
from gateway.telemetry.state_store import StateStore
from tests.command_office import (
    SECRET,
    FakePublisher,
    FakeRights,
    is_there,
    open_office,
    ref_of,
    request,
)
from tests.eventually import end, eventually


class LateRights(FakeRights):
    """A registry that was not read yet: nobody has a credential, nobody may anything."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = asyncio.Event()

    def generation(self, scooter_id: str) -> int:
        return super().generation(scooter_id) if self.loaded.is_set() else 0


async def test_what_is_taken_up_at_a_start_leaves_when_the_registry_is_known(
    postgres_url: str, redis: Redis, scooter_id: str
) -> None:
    """Before that nobody knows the scooter's key: unsigned, it would be rejected for good."""
    await is_there(redis, scooter_id)
    wish = request(scooter_id, "unlock")
    async with open_office(postgres_url, redis) as before:
        await before.ask(wish)
        await before.travel(7)  # the next send is due
    publisher, rights = FakePublisher(), LateRights()
    parts: Any = {"downlink": publisher, "registry": rights}
    async with open_postgres(postgres_url) as pool:
        primary = Lease(redis, f"{PRIMARY}:{scooter_id}", lease_s=5.0)
        office = CommandOffice(
            Settings(_env_file=None, fleet_secret=SecretStr(SECRET)),
            pool=pool,
            redis=redis,
            states=StateStore(redis, stale_after_s=60.0, history_max_bytes=2**20),
            primary=primary,
            metrics=Metrics(),
            **parts,
        )
        loops = office.loops()
        tasks: list[asyncio.Future[None]] = [
            asyncio.ensure_future(work())
            for work in (primary.run, loops["open commands"], loops["dispatch"])
        ]
        try:

            async def taken_up() -> bool:
                return len(office._open) == 1  # noqa: SLF001

            await eventually(taken_up, what="the command to be taken up")
            assert publisher.sent == []
            rights.loaded.set()

            async def left() -> bool:
                return bool(publisher.commands(scooter_id))

            await eventually(left, what="the command to leave")
        finally:
            for each in tasks:
                await end(each)
        (sent,) = publisher.commands(scooter_id)
        assert mac.verify(
            mac.command_key(SECRET, scooter_id, 1), topics.commands(scooter_id), sent.payload
        )
        sends = await pool.fetchval("SELECT sends FROM commands WHERE ref = $1", ref_of(wish))
        assert sends == 2
