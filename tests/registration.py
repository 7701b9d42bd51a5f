"""Scooters that a gateway with Postgres is to hear: made known in bulk, as provisioning does."""

from collections.abc import Iterable
from typing import Final

import asyncpg

from devices.registry import NewScooter, Registry, Standing

BY: Final = "tests"
_SET_STANDING: Final = (
    "UPDATE scooters SET standing = $2, standing_at = now() "
    "WHERE scooter_id = ANY($1) AND standing <> $2"
)


async def register(
    postgres_url: str, ids: Iterable[str], *, standing: Standing = Standing.ACTIVE
) -> None:
    """Add those that are not known and give all of them this standing, whatever it was.

    Seconds for 100,000. Without credentials: they speak through the account `load`. A gateway
    that runs already learns of it a moment later.
    """
    scooters = [NewScooter(each) for each in ids]
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:
        results = await Registry(pool).add(scooters, by=BY)
        problems = {key: text for key, text in results.items() if text not in ("added", "exists")}
        assert not problems, problems
        await pool.execute(_SET_STANDING, list(results), str(standing))
