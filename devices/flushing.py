"""Having written files safe on the disk: one by one, or a whole filesystem at once for many."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_MANY: Final = 8
"""From this many folders on, one flush of the filesystem is quicker than one of each file."""


def flush_folders(folders: Sequence[Path]) -> None:
    """Flush these folders, the files in them, and the folders they stand in; raises OSError."""
    parents = {folder.parent for folder in folders}
    if len(folders) >= _MANY and all(_flush_filesystem(parent) for parent in parents):
        return
    for folder in folders:
        for file in folder.iterdir():
            flush(file)
        flush(folder)
    for parent in parents:
        flush(parent)


def flush(path: Path) -> None:
    """Flush a file, or a folder's list of names; raises OSError."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _flush_filesystem(folder: Path) -> bool:
    """Linux' syncfs(2), which Python does not offer; False where the C library has none."""
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return False
    opened = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(opened) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(opened)
    return True
