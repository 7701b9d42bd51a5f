"""One server as a child process: start it, wait until it serves, stop, kill or pause it."""

import functools
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.errors import GatewayError

# The kernel ends a child with PR_SET_PDEATHSIG when the *thread* that started it ends, so one
# thread that lives as long as this process starts them all.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="server-spawner")
_PROBE_EVERY_S = 0.01
_PROBE_TIMEOUT_S = 2.0
_NOBODY = 65534
_IN_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    # access(2) would ignore the capability without the secure bit.
    *("--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)
_LAUNCHES = 5


class ServerFailed(GatewayError):
    """A server could not be started; the message says why and what to do."""


class Server:
    """A server on a port of its own; the same port and data each time it is started again.

    Every method blocks and may be called from any thread; asyncio code uses `asyncio.to_thread`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        port: int,
        log_file: Path,
        is_ready: Callable[[], bool],
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.port = port
        self.log_file = log_file
        # The death signal comes last: a change of user would clear it.
        self._command = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
        self._is_ready = is_ready
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def unprivileged(self) -> "Server":
        """Run it without root's rights when we are root; raises ServerFailed if that is denied."""
        self._command = [*without_root(), *self._command]
        return self

    @property
    def pid(self) -> int:
        """The process id of the server itself, also behind `unshare` and `setpriv`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return when it serves; raises ServerFailed with the last line of its log."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it without waiting."""
        if not self.is_running:
            self._process = _SPAWNER.submit(self._spawn).result()

    def wait_ready(self, *, within_s: float = 30.0) -> None:
        """Return once a client is served; raises ServerFailed if that does not happen in time."""
        give_up_at = time.monotonic() + within_s
        launches = 1
        while not (self.is_running and self._is_ready()):
            if not self.is_running:
                # What a killed predecessor left (shared memory, a backend) may go in a moment.
                if launches == _LAUNCHES:
                    raise ServerFailed(f"{self.name} ended on its own: {self._last_line()}")
                launches += 1
                time.sleep(0.1 * launches)
                self.launch()
            elif time.monotonic() > give_up_at:
                raise ServerFailed(f"{self.name} does not answer: {self._last_line()}")
            time.sleep(_PROBE_EVERY_S)

    def check(self) -> None:
        """Raises ServerFailed when it ended without being asked to."""
        if not self.is_running:
            raise ServerFailed(f"{self.name} ended on its own: {self._last_line()}")

    def stop(self, *, within_s: float = 15.0) -> None:
        """End it in order: what it has goes to its disk first."""
        if self._process is None or not self.is_running:
            return
        self.resume()
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its children with SIGKILL, as a crash would; returns when they are gone."""
        if self._process is None:
            return
        family = [self.pid, *_descendants(self.pid)] if self.is_running else []
        _signal_all(family, signal.SIGKILL)
        self._process.wait()
        while any(map(is_alive, family)):
            time.sleep(_PROBE_EVERY_S)

    def pause(self) -> None:
        """Freeze it with SIGSTOP: connections stay open and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it starts no more children
        _signal_all(_descendants(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        _signal_all([*_descendants(self.pid), self.pid], signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A fleet is more connections than the usual soft limit of 1024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        limited = ["prlimit", f"--nofile={most}:{most}", *self._command]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the command is ours
                limited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us; we stop them in order
            )

    def _last_line(self) -> str:
        lines = self.log_file.read_text(errors="replace").strip().splitlines() or ["no output"]
        return f"{lines[-1]} (more in {self.log_file})"


@functools.cache
def without_root() -> tuple[str, ...]:
    """The command prefix that takes root's rights from a server, empty when we are not root.

    A user namespace leaves owner and mode of files as they are. Where a container denies it, the
    server runs as `nobody` who may enter our folders; see `owner_of_files`. Raises ServerFailed
    where both are denied.
    """
    if os.geteuid() != 0:
        return ()
    problem = ""
    for prefix in (_IN_NAMESPACE, _AS_NOBODY):
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)  # noqa: S603
        if tried.returncode == 0:
            return prefix
        problem = problem or tried.stderr.strip()
    raise ServerFailed(
        f"Postgres does not run as root and this system denies user namespaces ({problem}): "
        "run this as a plain user."
    )


def owner_of_files() -> int:
    """The user id that a server behind `without_root` must own its files as, seen from here."""
    return _NOBODY if without_root() == _AS_NOBODY else os.geteuid()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        listings = list(Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # the process ended while we looked
        return found
    for listing in listings:
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:  # the thread did
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def is_alive(pid: int) -> bool:
    """Whether it still runs; a zombie that nobody reaps holds nothing any more."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def answer_of(host: str, port: int, request: bytes, *, size: int) -> bytes:
    """The first `size` bytes a server says, fewer when it closes, none when it is away."""
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(request)
            while len(answer) < size and (more := connection.recv(size - len(answer))):
                answer += more
    except OSError:
        return b""
    return answer
