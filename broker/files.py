"""Files that are replaced at once, private from the first byte or with the access they had."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, with mode 0600 from its first byte on."""
    replace(write_beside(path, text), path)


def write_beside(path: Path, text: str, *, like: Path | None = None) -> Path:
    """`text` on the disk as `path`.new, with mode 0600; rename it with `replace`.

    `like`: with owner, group and mode of that file (the folder's owner if there is none and we are
    root), so that a broker that runs as another user can read it as it reads that one.
    Raises OSError; what is left then is harmless and replaced next time.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if like is not None:
            _hand_over(file.fileno(), like)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return new


def replace(new: Path, path: Path) -> None:
    """Rename, and have the folder remember it after a power cut too."""
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time in `folder`; waits its turn, and leaves no lock file behind."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hand_over(handle: int, like: Path) -> None:
    """Raises PermissionError when the owner would change and only root could prevent it."""
    try:
        old = like.stat()
    except FileNotFoundError:
        if os.geteuid() == 0:
            folder = like.parent.stat()
            os.fchown(handle, folder.st_uid, folder.st_gid)
        return
    new = os.fstat(handle)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, old.st_mode & 0o777)
