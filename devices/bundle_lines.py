"""Bundles as JSON lines: one file for a whole import."""

import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from broker.files import replace
from devices.bundle import Bundle, login_of
from devices.bundle_places import FolderPlace, NotKept, Place, disk_told

_LINES: Final = {".jsonl", ".ndjson"}


@contextmanager
def place_for_many(path: Path) -> Iterator[Place]:
    """By its suffix: `.jsonl` and `.ndjson` are JSON lines, anything else a folder."""
    if path.suffix in _LINES:
        with LinesPlace(path) as lines:
            yield lines
    else:
        yield FolderPlace(path)


class LinesPlace:
    """JSON lines, one bundle each; held by one process at a time, and of a login the last counts.

    A line is appended before its hash is committed, and counts whenever the place is opened again;
    those that a later one replaced, or that surely nothing was committed for, are removed when it
    is closed.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self._kept: dict[str, str] = {}  # secrets by user name, and so below
        self._prepared: dict[str, str] = {}
        self._undecided: dict[str, str] = {}
        self._stale = 0
        self._opened = -1

    def __enter__(self) -> Self:
        with disk_told(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._opened = _take(self.path)
            try:
                self._read()
                os.fchmod(self._opened, 0o600)  # others may have been able to read it
            except BaseException:
                os.close(self._opened)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._stale:
                with disk_told(self.path):
                    self._rewrite()
        finally:
            os.close(self._opened)

    def secrets(self, usernames: Collection[str]) -> dict[str, str]:
        return {name: self._kept[name] for name in usernames if name in self._kept}

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        self._prepared = {bundle.username: bundle.secret for bundle in bundles}
        with disk_told(self.path):
            _append(self._opened, "".join([each.json_line() for each in bundles]).encode())
        self._stale += len(bundles)

    def keep(self, usernames: Collection[str]) -> None:
        self._stale -= sum(name not in self._kept for name in usernames)
        self._kept |= {name: self._prepared[name] for name in usernames}
        self._prepared = {}

    def leave(self) -> None:
        self._undecided |= self._prepared
        self._prepared = {}

    def unnamed(self, usernames: Collection[str] | None = None) -> dict[str, str]:
        del usernames
        return {}  # a line has its name from the beginning

    def where(self, username: str) -> Path:
        del username
        return self.path

    def _read(self) -> None:
        lines, line = 0, b"\n"
        with self.path.open("rb") as file:
            for line in file:
                login = login_of(line)
                if login is None and line.endswith(b"\n"):
                    raise NotKept(self.path, "the file exists and holds other things than bundles")
                if login is not None and line.endswith(b"\n"):
                    self._kept[login[0]] = login[1]
                lines += 1
        self._stale = lines - len(self._kept)
        if not line.endswith(b"\n"):  # torn by a power cut
            _append(self._opened, b"\n")

    def _rewrite(self) -> None:
        """Only the lines that count, in the order they came in."""
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as target, self.path.open("rb") as source:
            for line in source:
                login = login_of(line)
                if login is not None and login[1] in (
                    self._kept.get(login[0]),
                    self._undecided.get(login[0]),
                ):
                    target.write(line)
            target.flush()
            os.fsync(opened)
        replace(new, self.path)


def _take(file: Path) -> int:
    """Open it for appending, for us alone."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if not _locked(opened, file):
        os.close(opened)
        raise NotKept(file, "another process is writing to it")
    return opened


def _locked(opened: int, file: Path) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # The one before us may have put a new file in its place before it let go of the old one.
    return os.fstat(opened).st_ino == file.stat().st_ino


def _append(opened: int, data: bytes) -> None:
    """All of it, safe on the disk, or nothing."""
    size = os.fstat(opened).st_size
    try:
        while data:
            data = data[os.write(opened, data) :]
        os.fsync(opened)
    except OSError:
        os.ftruncate(opened, size)
        raise
