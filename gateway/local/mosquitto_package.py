"""Where the Mosquitto program comes from: the path, else the distribution's package, unpacked."""

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gateway.local.server_process import ServerFailed

# Debian keeps servers out of a plain user's path.
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_BACKPORTS = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main"
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
    cache = cache_folder()
    root = cache / f"mosquitto-{suite or release}-{platform.machine()}"
    if root.is_dir():
        if Mosquitto(root).version():
            return Mosquitto(root)
        shutil.rmtree(root)  # a library that the system had is gone: fetch it too
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ServerFailed("There is no Mosquitto here and no apt to fetch it: install Mosquitto.")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as work:
        unpacked = Path(work) / "root"
        for package in _download(Path(work), suite, mirror):
            _run(["dpkg-deb", "-x", package, unpacked])
        try:
            unpacked.rename(root)
        except OSError:  # another process was faster
            if not root.is_dir():
                raise
    return Mosquitto(root)


def cache_folder() -> Path:
    """`scooter-gateway` in the user's cache folder."""
    told = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - a convention, no setting of ours
    return Path(told or Path.home() / ".cache") / "scooter-gateway"


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"  # noqa: TID251 - no setting of ours


def _download(work: Path, suite: str | None, mirror: str) -> list[Path]:
    """The packages that this system lacks for Mosquitto; old lists are not an obstacle."""
    archives = work / "cache" / "archives"
    (archives / "partial").mkdir(parents=True)
    options = [
        *("-q", "-o", f"Dir::Cache={work}/cache", "-o", "Debug::NoLocking=1"),
        *("-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"),
    ]
    wanted = ["install", "--download-only", "--no-install-recommends", "--reinstall", "-y"]
    wanted += [*(("-t", suite) if suite else ()), *_PACKAGES]
    if suite or _run(["apt-get", *options, *wanted], may_fail=True):
        options += _private_lists(work, suite, mirror)
        _run(["apt-get", *options, "update"], may_fail=True)  # one dead source does not matter
        if problem := _run(["apt-get", *options, *wanted], may_fail=True):
            raise ServerFailed(
                f"There is no Mosquitto here and apt cannot fetch it ({problem}): "
                "install Mosquitto."
            )
    return sorted(archives.glob("*.deb"))


def _private_lists(work: Path, suite: str | None, mirror: str) -> list[str]:
    lists = work / "state" / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={lists}"]
    if suite:
        source = work / "sources.list"
        source.write_text(_BACKPORTS.format(mirror=mirror, suite=suite) + "\n")
        options += ["-o", f"Dir::Etc::sourcelist={source}"]
    return options


def _run(command: list[str | Path], *, may_fail: bool = False) -> str:
    """Empty when it worked, else the last line it wrote."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode == 0:
        return ""
    problem = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
    if not may_fail:
        raise ServerFailed(f"{command[0]} failed: {problem}")
    return problem
