"""Where bundles are kept: a folder per login, or one JSON file; readable by us alone.

Two steps, so that whatever ends between them leaves no bundle with a wrong secret: `prepare` puts
bundles on the disk under a name that nobody takes for theirs; `keep`, once their hashes are
committed, gives them their names.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from broker.accounts import write_private
from broker.errors import FleetError
from devices.bundle import Bundle, login_of
from devices.flushing import flush, flush_folders

_BUNDLE: Final = "bundle.json"
_AUTHORITY: Final = "authority.crt"


class NotKept(FleetError):
    """Bundles could not be written; nothing was committed for them."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"bundles cannot be kept in {path}: {reason}. Mend that, or choose another place, and "
            "run the same again."
        )
        self.path = path
        self.reason = reason


class Place(Protocol):
    """What keeps bundles; `path` is what a person names it by."""

    path: Path

    def secrets(self, usernames: Collection[str]) -> Mapping[str, str]:
        """The secrets that are kept here already, of these user names."""
        ...

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        """Have these safe on the disk, not yet under their names; raises NotKept."""
        ...

    def keep(self, usernames: Collection[str]) -> None:
        """Give these of the prepared ones their names, and forget the rest of them."""
        ...

    def where(self, username: str) -> Path:
        """Where the bundle of this user name is, or would be."""
        ...


def place_for(path: Path) -> Place:
    """By its suffix: `.json` is one file for one bundle, anything else a folder for many."""
    return FilePlace(path) if path.suffix == ".json" else FolderPlace(path)


class FolderPlace:
    """`folder/SC-0001/bundle.json`, with `authority.crt` beside it for tools that want a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._prepared: set[str] = set()

    def secrets(self, usernames: Collection[str]) -> dict[str, str]:
        return _found(usernames, {name: self.where(name) / _BUNDLE for name in usernames})

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        with disk_told(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for bundle in bundles:
                self._prepared.add(bundle.username)
                self._write(bundle)
            flush_folders([self._new(bundle.username) for bundle in bundles])

    def keep(self, usernames: Collection[str]) -> None:
        with disk_told(self.path):
            for name in usernames:
                _replace_folder(self._new(name), self.where(name))
            flush_folders([self.where(name) for name in usernames])
        for name in self._prepared.difference(usernames):
            shutil.rmtree(self._new(name), ignore_errors=True)
        self._prepared.clear()

    def where(self, username: str) -> Path:
        return self.path / username

    def _new(self, username: str) -> Path:
        # No login begins with a dot, so nobody takes this for a bundle.
        return self.path / f".{username}.new"

    def _write(self, bundle: Bundle) -> None:
        new = self._new(bundle.username)
        shutil.rmtree(new, ignore_errors=True)  # what a killed process left
        new.mkdir(mode=0o700)
        for name, text in ((_AUTHORITY, bundle.authority_pem), (_BUNDLE, bundle.json())):
            file = os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(text)


class FilePlace:
    """One JSON file for one bundle; one that holds somebody else's is not overwritten."""

    def __init__(self, file: Path) -> None:
        self.path = file
        self._new = file.with_name(f".{file.name}.new")

    def secrets(self, usernames: Collection[str]) -> dict[str, str]:
        return _found(usernames, dict.fromkeys(usernames, self.path))

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        (bundle,) = bundles
        if self.path.exists() and not self.secrets([bundle.username]):
            raise NotKept(self.path, f"the file exists and is not a bundle of {bundle.username}")
        with disk_told(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._new, bundle.json())

    def keep(self, usernames: Collection[str]) -> None:
        with disk_told(self.path):
            if usernames:
                self._new.rename(self.path)
                flush(self.path.parent)
            else:
                self._new.unlink(missing_ok=True)

    def where(self, username: str) -> Path:
        del username  # there is one
        return self.path


def _found(usernames: Collection[str], files: Mapping[str, Path]) -> dict[str, str]:
    found = {}
    for name in usernames:
        with suppress(OSError, UnicodeDecodeError):
            login = login_of(files[name].read_bytes())
            if login is not None and login[0] == name:
                found[name] = login[1]
    return found


def _replace_folder(new: Path, final: Path) -> None:
    if not final.exists():
        new.rename(final)
        return
    for file in new.iterdir():
        file.rename(final / file.name)
    new.rmdir()


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """What the disk refuses becomes NotKept."""
    try:
        yield
    except OSError as error:
        raise NotKept(path, error.strerror or type(error).__name__) from error
