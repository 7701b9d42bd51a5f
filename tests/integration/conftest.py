"""What many tests stand on: states in Redis, and a provisioning desk."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import BrokerPlace
from tests.desk import Desk, address_of, open_desk
from tests.telemetry import Fleet


@pytest.fixture
async def fleet(redis: Redis) -> Fleet:
    fleet = Fleet(redis)
    await fleet.load()
    return fleet


@pytest.fixture(scope="module")
def broker_place(
    tmp_path_factory: pytest.TempPathFactory, mosquitto_program: Mosquitto | None
) -> Iterator[BrokerPlace]:
    """A broker of this module's own; each desk's first change lets in its own logins alone."""
    with BrokerPlace(tmp_path_factory.mktemp("broker") / "broker", mosquitto_program) as place:
        yield place


@pytest.fixture
async def desk(broker_place: BrokerPlace, postgres_url: str) -> AsyncIterator[Desk]:
    async with open_desk(address_of(broker_place, postgres_url)) as desk:
        yield desk


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """No folder can be made there, not even by root."""
    file = tmp_path / "file"
    file.write_text("in the way")
    return file / "bundles"
