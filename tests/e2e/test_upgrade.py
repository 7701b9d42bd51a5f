"""A running system is upgraded: migrate first, then the gateways; nothing is lost."""

import asyncio
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path

import pytest

from gateway.local.servers import Servers
from tests.command_line import access_settings, environment, runner
from tests.e2e.system import System
from tests.eventually import eventually
from tests.fleet import EventSender, Fleet
from tests.gateway_process import GatewayProcess
from tests.load import Load

_ROOT = Path(__file__).parents[2]
_ADDED_REGISTRY = "gateway/storage/migrations/0002_registry.sql"
_PARTS = ("broker", "devices", "gateway")


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, check=False)  # noqa: S603, S607
    return done.stdout if done.returncode == 0 else b""


@pytest.fixture
def earlier_release(tmp_path: Path) -> Path:
    """The code from before there was a registry, whose schema is the first migration alone."""
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", _ADDED_REGISTRY)
    archive = _git("archive", f"{added.decode().strip()}^", *_PARTS) if added else b""
    if not archive:
        pytest.skip("needs the project's history, which this copy does not have")
    folder = tmp_path / "earlier"
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


async def _scooter_of(code: Path, *arguments: str, **settings: object) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments), env=environment(settings), cwd=code
    )
    assert await process.wait() == 0


@pytest.fixture
async def earlier(
    own_servers: Servers, earlier_release: Path, tmp_path: Path
) -> AsyncIterator[System]:
    """A system whose database the earlier release made."""
    url = own_servers.postgres_url
    await _scooter_of(earlier_release, "migrate", postgres_url=url, env_file="/nonexistent")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(System(own_servers, tmp_path))


@asynccontextmanager
async def _in_use(system: System, fleet: Fleet) -> AsyncIterator[EventSender]:
    """Scooters report and fall without a pause, until the block ends."""
    over = asyncio.Event()
    load = Load(system.mqtt_port, fleet.streams(2, until=over), rate=200)
    events = EventSender(system.mqtt_port)

    async def fall() -> None:
        for number in range(1, 10_000):
            events.happen(fleet.ids[number % len(fleet.ids)], f"1-{number}")
            await asyncio.wait({ended}, timeout=0.05)
            if over.is_set():
                return

    ended = asyncio.create_task(over.wait())
    async with events.running(), asyncio.TaskGroup() as group:
        group.create_task(load.run(within_s=300))
        falling = group.create_task(fall())
        try:
            yield events
        finally:
            over.set()
        await falling
        await _receipts(events, none_left=True)


async def _receipts(events: EventSender, *, none_left: bool = False) -> None:
    """Until new ones have come, or no event waits for its own."""
    before = len(events.receipted)

    async def probe() -> bool:
        return not events.kept if none_left else len(events.receipted) > before + 20

    await eventually(probe, within_s=60, what="receipts")


async def _snapshots_grow(system: System) -> None:
    question = "SELECT count(DISTINCT period_start) FROM scooter_snapshots"
    before = int((await system.ask(question))[0][0])

    async def probe() -> bool:
        return int((await system.ask(question))[0][0]) > before + 1

    await eventually(probe, within_s=60, what="further snapshots")


async def _refuses(gateway: GatewayProcess) -> None:
    async def ended() -> bool:
        return not gateway.is_running

    await eventually(ended, within_s=60, what="a start that is refused")
    assert "run the newer version" in gateway.log


@pytest.mark.timeout(420)
async def test_a_system_in_use_is_migrated_and_taken_over_by_the_new_release_without_loss(
    earlier: System, earlier_release: Path, tmp_path: Path
) -> None:
    system, fleet = earlier, Fleet("U", 200)
    settings = {**access_settings(system.servers), "postgres_url": system.servers.postgres_url}
    run = runner(settings)
    old = await (await system.gateway_of(earlier_release, "gateway-1")).ready()
    async with _in_use(system, fleet) as events:
        await _receipts(events)

        migrated = await run("migrate")
        assert migrated.code == 0, migrated.err
        # The old one runs on with the new tables beside its own.
        await _receipts(events)
        await _snapshots_grow(system)
        await _refuses(await system.gateway_of(earlier_release, "another"))

        listed = tmp_path / "scooters.csv"
        listed.write_text("\n".join(["scooter_id", *fleet.ids]))
        imported = await run("devices", "import", str(listed), "--out", str(tmp_path / "bundles"))
        assert imported.code == 0, imported.err
        new = await system.gateway()  # the same name: it stands by until the old one ends
        assert await old.terminate() == 0
        await new.ready()
        await _receipts(events)
        await _snapshots_grow(system)
    await system.caught_up(fleet)
    await system.clean()
    await system.assert_stored(fleet)
    await system.assert_no_row_twice()
    stored = await system.ask("SELECT scooter_id, event_id FROM scooter_events")
    assert {tuple(row) for row in stored} == set(events.receipted)
    assert await system.ask("SELECT * FROM rejects") == []
