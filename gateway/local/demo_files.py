"""What the demo writes beside its servers' data: settings, readers' logins, the fleet's secret."""

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from broker.accounts import new_secret, write_private
from devices.bundle import login_of
from gateway.local.servers import Servers
from gateway.settings import Settings

GATEWAY_ENV: Final = "gateway.env"
READER_ENV: Final = "reader.env"
PGPASS: Final = "pgpass"
BUNDLES: Final = "bundles"
_FLEET_SECRET: Final = "fleet.secret"  # noqa: S105 - a file's name


def write_settings(folder: Path, settings: Settings) -> None:
    """Where the command line of another terminal finds this gateway; a shell can read it too."""
    named = {
        f"SCOOTER_{name.upper()}": getattr(settings, name) for name in settings.model_fields_set
    }
    _write_env(folder / GATEWAY_ENV, named)


def write_reader_logins(folder: Path, servers: Servers) -> None:
    """For backend developers: addresses to read from, and the password file of libpq."""
    addresses = {
        "READER_REDIS_URL": servers.redis_reader_url,
        "READER_POSTGRES_URL": servers.postgres_reader_url,
    }
    _write_env(folder / READER_ENV, addresses)
    logins = [urlsplit(url) for url in (servers.postgres_reader_url, servers.postgres_url)]
    lines = [f"{url.hostname}:{url.port}:*:{url.username}:{url.password}\n" for url in logins]
    write_private(folder / PGPASS, "".join(lines))


def fleet_secret(folder: Path) -> SecretStr:
    """The secret from which command keys are derived; made once."""
    file = folder / _FLEET_SECRET
    if not file.exists():
        write_private(file, new_secret())
    return SecretStr(file.read_text())


def forget(folder: Path) -> None:
    """Remove bundles and the fleet's secret, which are of no use after the registry is gone."""
    (folder / _FLEET_SECRET).unlink(missing_ok=True)
    for bundle in (folder / BUNDLES).glob("*/bundle.json"):
        login = login_of(bundle.read_bytes())
        if login is not None and login[0] == bundle.parent.name:
            shutil.rmtree(bundle.parent)


def _write_env(path: Path, values: Mapping[str, object]) -> None:
    lines = []
    for name, value in values.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        lines.append(f"{name}={shlex.quote(text)}\n")
    write_private(path, "".join(sorted(lines)))
