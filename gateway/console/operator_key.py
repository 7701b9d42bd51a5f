"""An operator's keys on this machine: kept once, the last used one remembered, one user at a time.

They are in `$XDG_CONFIG_HOME/scooter/keys`, else `~/.config/scooter/keys`, readable by us alone.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from broker.files import write_private
from devices.console.exits import CommandFailed, Exit
from devices.console.output import talk
from devices.contract import topics

WAIT_S: Final = 10.0
"""How long a command waits for another one that uses the same key."""

_POLL_S: Final = 0.1
_BUNDLE: Final = "bundle.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """What a bundle says: who we are at which broker, and how to know it."""

    login: str
    secret: str = field(repr=False)
    host: str
    port: int
    authority_pem: str = field(repr=False)


def folder() -> Path:
    """Where this user's keys are kept."""
    return Path(typer.get_app_dir("scooter")) / "keys"


def read_key(path: Path) -> OperatorKey:
    """The key in a bundle: its file, or the folder it was written to. Raises CommandFailed."""
    file = path / _BUNDLE if path.is_dir() else path
    try:
        document: Any = orjson.loads(file.read_bytes())
    except OSError as error:
        raise _unusable(f"{file}: {error.strerror}") from error
    except orjson.JSONDecodeError:
        raise _unusable(f"{file} is no bundle: it is no JSON") from None
    match document:
        case {
            "username": str(login),
            "secret": str(secret),
            "host": str(host),
            "port": int(port),
            "authority": str(authority),
        }:
            if not topics.is_operator_key(login):
                raise _unusable(f"{file} is the bundle of {login!r}, which is no operator's key")
            return OperatorKey(
                login=login, secret=secret, host=host, port=port, authority_pem=authority
            )
    raise _unusable(
        f"{file} is no bundle of an operator's key: `scooter operators key add --out` writes one"
    )


def keep(key: OperatorKey) -> Path:
    """Keep a key here, in place of an older one of that name, and use it from now on."""
    file = _file(key.login)
    document = {
        "username": key.login,
        "secret": key.secret,
        "host": key.host,
        "port": key.port,
        "authority": key.authority_pem,
    }
    with _disk_told(file):
        _make_folder()
        write_private(file, orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    remember(key.login)
    return file


def forget(login: str) -> None:
    """Remove a kept key; raises CommandFailed when there is none."""
    file = _file(login)
    if login not in kept():
        raise CommandFailed(f"no key {login} is kept here{_say_others()}", code=Exit.NOT_FOUND)
    with _disk_told(file):
        file.unlink()
        if remembered() == login:
            _last().unlink()


def remember(login: str) -> None:
    """Use this kept key when none is named."""
    if remembered() != login:
        with _disk_told(_last()):
            write_private(_last(), f"{login}\n")


def remembered() -> str | None:
    """The key that is used when none is named."""
    with suppress(OSError, UnicodeDecodeError):
        login = _last().read_text().strip()
        return login if login in kept() else None
    return None


def kept() -> list[str]:
    """The logins of the keys that are kept here."""
    return sorted(
        each.stem for each in folder().glob("*.json") if topics.is_operator_key(each.stem)
    )


def choose(login: str | None, given: Path | None, usual: Path | None) -> OperatorKey:
    """The key of a bundle that was `given`, else the kept one of this login, else the `usual`
    bundle, else the kept one that was used last. Raises CommandFailed.
    """
    if given is not None:
        key = read_key(given)
        if login is not None and login != key.login:
            raise CommandFailed(f"{given} is the key {key.login}, not {login}", code=Exit.USAGE)
        return key
    if login is not None:
        if login not in kept():
            raise CommandFailed(
                f"no key {login} is kept here{_say_others()}. `scooter login BUNDLE` keeps one",
                code=Exit.USAGE,
            )
        remember(login)
        return read_key(_file(login))
    if usual is not None:
        return read_key(usual)
    if (last := remembered()) is None:
        raise CommandFailed(
            f"with which key? {_say_kept().capitalize()}: name one with --as, or run `scooter "
            "login BUNDLE` with the bundle that `scooter operators key add` wrote",
            code=Exit.USAGE,
        )
    return read_key(_file(last))


@contextmanager
def held(login: str, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the only command on this machine that uses a key: the broker gives it one connection.

    Waits a moment for another one. Raises CommandFailed that says who holds it.
    """
    path = folder() / f"{login}.lock"
    with _disk_told(path):
        _make_folder()
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle, login, wait_s)
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {_doing()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)  # which unlocks it, as the end of the process does


def is_held(login: str) -> bool:
    """Whether a command on this machine uses the key now."""
    try:
        with held(login, wait_s=0):
            return False
    except CommandFailed:
        return True


def _lock(handle: int, login: str, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    is_told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _holder(handle)
            if time.monotonic() >= until:
                raise CommandFailed(
                    f"{login} is in use by {who}: one key has one connection. Wait for it, or use "
                    "another key (`scooter operators key add` makes one)",
                    code=Exit.REFUSED,
                ) from None
            if not is_told:
                talk(f"{login} is in use by {who}: waiting for it")
                is_told = True
            time.sleep(_POLL_S)
        else:
            return


def _holder(handle: int) -> str:
    pid, _, doing = os.pread(handle, 200, 0).decode(errors="replace").strip().partition(" ")
    return f"`{doing}` (process {pid})" if doing else "another command"


def _doing() -> str:
    """The command without its arguments' end: it may name a thousand scooters."""
    words = ["scooter", *sys.argv[1:]]
    text = " ".join(words)
    return text if len(text) <= 60 else f"{text[:59]}…"  # noqa: PLR2004 - one glance


def _file(login: str) -> Path:
    return folder() / f"{login}.json"


def _last() -> Path:
    return folder() / "last"


def _make_folder() -> None:
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)


def _say_kept() -> str:
    return f"kept are {', '.join(kept())}" if kept() else "none is kept here"


def _say_others() -> str:
    return f", but {', '.join(kept())}" if kept() else ""


def _unusable(sentence: str) -> CommandFailed:
    return CommandFailed(sentence, code=Exit.USAGE)


@contextmanager
def _disk_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandFailed(
            f"{path}: {error.strerror}. Keys are kept in {folder()}; XDG_CONFIG_HOME names another "
            "place"
        ) from error
