"""Where the Mosquitto program comes from: the path, else the distribution's package, unpacked."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gateway.local.debian_package import cache_folder, fetch_packages
from gateway.local.server_process import ServerFailed

# Debian keeps servers out of a plain user's path.
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_PACKAGES = ("mosquitto", "mosquitto-clients")


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """An installed Mosquitto, or one unpacked under `root`."""

    root: Path | None = None

    def command(self, program: str = "mosquitto") -> list[str]:
        """How to run a program of this Mosquitto; raises ServerFailed when it is not there."""
        if self.root is None:
            found = shutil.which(program, path=_search_path())
        else:
            folders = f"{self.root}/usr/sbin:{self.root}/usr/bin"
            found = shutil.which(program, path=folders)
        if found is None:
            raise ServerFailed(f"There is no {program} here: install it with apt.")
        return [*self._environment(), found]

    def _environment(self) -> list[str]:
        if self.root is None:
            return []
        folders = {str(library.parent) for library in self.root.rglob("lib*.so.*")}
        return ["env", f"LD_LIBRARY_PATH={':'.join(sorted(folders))}"] if folders else []

    def version(self) -> str:
        """Such as `2.0.11`; empty when it cannot run here."""
        told = subprocess.run(  # noqa: S603 - our own command
            [*self.command(), "-h"], capture_output=True, text=True, check=False
        )
        return told.stdout.split("\n", 1)[0].removeprefix("mosquitto version ").strip()


def find_mosquitto() -> Mosquitto:
    """The installed Mosquitto, else the distribution's, fetched once; raises ServerFailed."""
    if shutil.which("mosquitto", path=_search_path()):
        return Mosquitto()
    return fetch_mosquitto()


def client_command(program: str) -> list[str]:
    """How to run `mosquitto_pub` or `mosquitto_sub` here, fetched if need be; ServerFailed."""
    installed = shutil.which(program, path=_search_path())
    return [installed] if installed else fetch_mosquitto().command(program)


def fetch_mosquitto(
    suite: str | None = None, *, mirror: str = "http://deb.debian.org/debian"
) -> Mosquitto:
    """Unpack the package of this system, or of a suite such as `bookworm-backports`.

    Needs neither root nor sudo, installs nothing and starts no service; kept in the user's cache
    folder and taken from there the next time. Raises ServerFailed where there is no apt or no
    network.
    """
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    root = cache_folder() / f"mosquitto-{suite or release}-{platform.machine()}"
    if root.is_dir():
        if Mosquitto(root).version():
            return Mosquitto(root)
        shutil.rmtree(root)  # a library that the system had is gone: fetch it too
    fetch_packages(_PACKAGES, root, suite=suite, mirror=mirror)
    return Mosquitto(root)


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"  # noqa: TID251 - no setting of ours
