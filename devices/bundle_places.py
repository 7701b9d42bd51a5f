"""Where bundles are kept: a folder per login, or one JSON file; readable by us alone.

Two steps, so that whatever ends between them leaves no bundle with a wrong secret: `prepare` puts
bundles on the disk under a name that nobody takes for theirs; `keep`, once their hashes are
committed, gives them their names. What ended in between is `unnamed`: only the registry knows
whether it is worthless or the only copy of a secret that counts.
"""

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from broker.accounts import write_private
from broker.errors import FleetError
from broker.files import replace
from devices.bundle import Bundle, login_of
from devices.flushing import flush_folders

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


class NotNamed(FleetError):
    """Bundles whose hashes are committed lie safe under the names they were prepared under."""

    def __init__(self, unnamed: Path, final: Path, reason: str, *, more: int = 0) -> None:
        others = f" (and so are {more} more)" if more else ""
        super().__init__(
            f"a bundle is in {unnamed}{others}, and cannot get its name {final}: {reason}. "
            "Mend that."
        )


class Place(Protocol):
    """What keeps bundles; `path` is what a person names it by."""

    path: Path

    def secrets(self, usernames: Collection[str]) -> Mapping[str, str]:
        """The secrets that are kept here already, of these user names."""
        ...

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        """Have these safe on the disk, not yet under their names, which they can take.

        What was `unnamed` of them is replaced. Raises NotKept.
        """
        ...

    def keep(self, usernames: Collection[str]) -> None:
        """Give these of the prepared or unnamed ones their names, and forget the others prepared.

        Raises NotNamed after as many as can have theirs.
        """
        ...

    def leave(self) -> None:
        """The prepared ones stay as they are: nobody knows whether their hashes are committed."""
        ...

    def unnamed(self, usernames: Collection[str] | None = None) -> Mapping[str, str]:
        """The secrets of those that were prepared and neither kept nor forgotten, by user name.

        With `usernames` of those only that preparing these would replace.
        """
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
                self._check_name(bundle.username)
            for bundle in bundles:
                self._prepared.add(bundle.username)
                self._write(bundle)
            flush_folders([self._new(bundle.username) for bundle in bundles])

    def keep(self, usernames: Collection[str]) -> None:
        forgotten, self._prepared = self._prepared.difference(usernames), set()
        failed: dict[str, str] = {}
        for name in usernames:
            try:
                _replace_folder(self._new(name), self.where(name))
            except OSError as error:
                failed[name] = _reason(error)
        for name in forgotten:
            shutil.rmtree(self._new(name), ignore_errors=True)
        with disk_told(self.path):
            flush_folders([self.where(name) for name in usernames if name not in failed])
        for name, reason in failed.items():
            raise NotNamed(self._new(name), self.where(name), reason, more=len(failed) - 1)

    def leave(self) -> None:
        self._prepared = set()

    def unnamed(self, usernames: Collection[str] | None = None) -> dict[str, str]:
        if usernames is None:
            folders = self.path.glob(".*.new")
            usernames = [each.name.removeprefix(".").removesuffix(".new") for each in folders]
        return _found(usernames, {name: self._new(name) / _BUNDLE for name in usernames})

    def where(self, username: str) -> Path:
        return self.path / username

    def _new(self, username: str) -> Path:
        # No login begins with a dot, so nobody takes this for a bundle.
        return self.path / f".{username}.new"

    def _check_name(self, username: str) -> None:
        """What would keep a bundle from its name, told while nothing is committed."""
        final = self.where(username)
        if not final.is_dir():
            if final.exists() or final.is_symlink():
                raise NotKept(final, "a file is in the way")
        elif not os.access(final, os.W_OK | os.X_OK):
            raise NotKept(final, os.strerror(errno.EACCES))
        elif any((final / name).is_dir() for name in (_AUTHORITY, _BUNDLE)):
            raise NotKept(final, os.strerror(errno.EISDIR))

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
        self._has_prepared = False

    def secrets(self, usernames: Collection[str]) -> dict[str, str]:
        return _found(usernames, dict.fromkeys(usernames, self.path))

    def prepare(self, bundles: Sequence[Bundle]) -> None:
        (bundle,) = bundles
        if self._is_anothers(bundle.username):
            raise NotKept(self.path, f"the file exists and is not a bundle of {bundle.username}")
        with disk_told(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._has_prepared = True
            write_private(self._new, bundle.json())

    def keep(self, usernames: Collection[str]) -> None:
        if not usernames:
            if self._has_prepared:
                self._new.unlink(missing_ok=True)
                self._has_prepared = False
            return
        self._has_prepared = False
        (name,) = usernames
        if self._is_anothers(name):
            reason = f"the file exists and is not a bundle of {name}"
            raise NotNamed(self._new, self.path, reason)
        try:
            replace(self._new, self.path)
        except OSError as error:
            raise NotNamed(self._new, self.path, _reason(error)) from error

    def leave(self) -> None:
        self._has_prepared = False

    def unnamed(self, usernames: Collection[str] | None = None) -> dict[str, str]:
        del usernames  # there is one file for whoever it is
        with suppress(OSError):
            login = login_of(self._new.read_bytes())
            return dict([login]) if login else {}
        return {}

    def where(self, username: str) -> Path:
        del username  # there is one
        return self.path

    def _is_anothers(self, username: str) -> bool:
        return self.path.exists() and not self.secrets([username])


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
        raise NotKept(path, _reason(error)) from error


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
