"""The whole system for one test: servers of its own, and gateways to start and kill."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.local.servers import Servers
from gateway.storage.migrate import migrate
from tests.e2e.system import System


@pytest.fixture
async def system(own_servers: Servers, tmp_path: Path) -> AsyncIterator[System]:
    await migrate(own_servers.postgres_url)
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(System(own_servers, tmp_path))
