"""Programs that tests run as people do: installed ones, else fetched from the distribution."""

import os
import platform
import shutil
from pathlib import Path

from gateway.local.debian_package import cache_folder, fetch_packages
from gateway.local.mosquitto_package import Mosquitto

_RELEASE = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")


def promtool() -> Path:
    """Checks Prometheus' rules; raises ServerFailed where it can neither be found nor fetched."""
    if installed := shutil.which("promtool"):
        return Path(installed)
    root = cache_folder() / f"prometheus-{_RELEASE}-{platform.machine()}"
    program = root / "usr/bin/promtool"
    if not program.exists():
        # What the server itself needs is of no use to it.
        fetch_packages(["prometheus"], root, alone=True)
    return program


def redis_cli_folder(folder: Path) -> Path:
    """A folder that has `redis-cli`; fetched, it is a script in `folder` that finds its libraries.

    Raises ServerFailed where it can neither be found nor fetched.
    """
    if installed := shutil.which("redis-cli"):
        return Path(installed).parent
    root = cache_folder() / f"redis-tools-{_RELEASE}-{platform.machine()}"
    if not root.exists():
        fetch_packages(["redis-tools"], root)
    command = " ".join(map(str, Mosquitto(root).command("redis-cli")))
    script = folder / "redis-cli"
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o700)
    return folder


def searched_first(*folders: Path) -> str:
    """A PATH in which these come before everything else."""
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])
