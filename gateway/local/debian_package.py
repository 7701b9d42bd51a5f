"""Programs of the distribution's packages, fetched and unpacked in a private folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.local.server_process import ServerFailed

_ARCHIVE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main"


def cache_folder() -> Path:
    """`scooter-gateway` in the user's cache folder."""
    told = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - a convention, no setting of ours
    return Path(told or Path.home() / ".cache") / "scooter-gateway"


def fetch_packages(
    packages: Sequence[str],
    root: Path,
    *,
    suite: str | None = None,
    mirror: str = "http://deb.debian.org/debian",
    alone: bool = False,
) -> None:
    """Unpack packages of this system, or of a suite such as `bookworm-backports`, into `root`.

    With what they need and this system lacks, unless `alone`. Needs neither root nor sudo,
    installs nothing and starts no service. Raises ServerFailed where there is no apt or no network.
    """
    what = packages[0].capitalize()
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ServerFailed(f"There is no {what} here and no apt to fetch it: install {what}.")
    root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="fetching-") as work:
        unpacked = Path(work) / "root"
        for package in _download(Path(work), packages, suite=suite, mirror=mirror, alone=alone):
            _run(["dpkg-deb", "-x", package, unpacked])
        try:
            unpacked.rename(root)
        except OSError:  # another process was faster
            if not root.is_dir():
                raise


def _download(
    work: Path, packages: Sequence[str], *, suite: str | None, mirror: str, alone: bool
) -> list[Path]:
    """Old lists are not an obstacle."""
    archives = work / "cache" / "archives"
    (archives / "partial").mkdir(parents=True)
    options = [
        *("-q", "-o", f"Dir::Cache={work}/cache", "-o", "Debug::NoLocking=1"),
        *("-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"),
    ]
    wanted = ["install", "--download-only", "--no-install-recommends", "--reinstall", "-y"]
    if alone:
        wanted = ["download"]
    wanted += [*(("-t", suite) if suite else ()), *packages]
    if suite or _run(["apt-get", *options, *wanted], may_fail=True, folder=archives):
        options += _private_lists(work, suite, mirror)
        _run(["apt-get", *options, "update"], may_fail=True)  # one dead source does not matter
        if problem := _run(["apt-get", *options, *wanted], may_fail=True, folder=archives):
            what = packages[0].capitalize()
            raise ServerFailed(
                f"There is no {what} here and apt cannot fetch it ({problem}): install {what}."
            )
    return sorted(archives.glob("*.deb"))


def _private_lists(work: Path, suite: str | None, mirror: str) -> list[str]:
    lists = work / "state" / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={lists}"]
    if suite:
        source = work / "sources.list"
        source.write_text(_ARCHIVE.format(mirror=mirror, suite=suite) + "\n")
        options += ["-o", f"Dir::Etc::sourcelist={source}"]
    return options


def _run(command: list[str | Path], *, may_fail: bool = False, folder: Path | None = None) -> str:
    """Empty when it worked, else the last line it wrote."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=folder
    )
    if done.returncode == 0:
        return ""
    problem = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
    if not may_fail:
        raise ServerFailed(f"{command[0]} failed: {problem}")
    return problem
