"""The gateway as a child process with settings from its environment, to watch, kill and freeze."""

import asyncio
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson
from prometheus_client.parser import text_string_to_metric_families

from tests.command_line import environment
from tests.eventually import eventually

READY_S: Final = 30.0
_SETTLED: Final = ("applied", "duplicate", "late", "event", "presence", "ack", "rejected")


class Page:
    """What /metrics said once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge without its prefix `gateway_`; 0 when it is not there."""
        return self._values.get((f"gateway_{name}", tuple(sorted(labels.items()))), 0.0)

    def outcome(self, name: str) -> int:
        return int(self.value("deliveries_total", outcome=name))

    @property
    def received(self) -> int:
        return int(self.value("deliveries_received_total"))

    @property
    def in_flight(self) -> int:
        return int(self.value("deliveries_in_flight"))

    @property
    def settled(self) -> int:
        """Deliveries of scooters that the gateway is done with."""
        return sum(map(self.outcome, _SETTLED))

    @property
    def surplus(self) -> int:
        """Received less outcomes and in flight: 0 in a balanced account."""
        ended = sum(
            int(value) for (name, _), value in self._values.items() if name == _OUTCOMES_NAME
        )
        return self.received - ended - self.in_flight


_OUTCOMES_NAME: Final = "gateway_deliveries_total"


class GatewayProcess:
    """`scooter gateway` with these settings, `snapshot_period_s` style; its log in a file.

    `code` is the folder of another release than this one.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, log_file: Path, code: Path | None = None
    ) -> None:
        self._settings = {"log_format": "json", "env_file": "/nonexistent", **settings}
        self._page = f"http://127.0.0.1:{settings['metrics_port']}"
        self.log_file = log_file
        self._code = code
        self._process: asyncio.subprocess.Process | None = None
        self.last_page: Page | None = None

    async def start(self) -> Self:
        """Start it, again after it ended; does not wait until it is ready."""
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # It must not outlive a test run that is killed.
                *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "gateway", "gateway"),
                env=environment(self._settings),
                cwd=self._code,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_postgres(self) -> bool:
        """Without, it has no registry and hears everybody."""
        return "postgres_url" in self._settings

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def resident_mib(self) -> float:
        """MiB of memory that it holds now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError(self.pid)

    async def page(self) -> Page | None:
        """Its metrics now; None when it does not answer."""
        text = await asyncio.to_thread(self._get, "/metrics")
        if text is not None:
            self.last_page = Page(text)
        return self.last_page if text is not None else None

    async def metrics(self) -> Page:
        """Its metrics, once it answers."""
        return await eventually(self.page, within_s=READY_S, what="metrics")

    async def balanced(self) -> Page:
        """Its metrics when the account is balanced: it is read while deliveries come in."""

        async def probe() -> Page | None:
            page = await self.page()
            return page if page is not None and page.surplus == 0 else None

        return await eventually(probe, within_s=READY_S, what="a balanced account")

    async def problems(self) -> dict[str, str] | None:
        """What keeps it from being ready, by name; None when it does not answer."""
        text = await asyncio.to_thread(self._get, "/readyz")
        if text is None:
            return None
        problems: dict[str, str] = orjson.loads(text)["problems"]
        return problems

    async def ready(self, *, within_s: float = READY_S) -> Self:
        """Return once it says that it is ready; fails with its log when it ended instead."""

        async def probe() -> bool:
            assert self.is_running, f"the gateway ended: {self.log[-2000:]}"
            return await self.problems() == {}

        await eventually(probe, within_s=within_s, what=f"readiness; {self.log[-500:]}")
        return self

    async def knows(self, scooters: int) -> None:
        """Return once its copy of the registry has at least as many scooters."""

        async def probe() -> bool:
            page = await self.page()
            return page is not None and page.value("registry_scooters") >= scooters

        await eventually(probe, within_s=READY_S, what=f"{scooters} scooters that are known")

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        await self._end(signal.SIGKILL, within_s=10.0)

    async def terminate(self, *, within_s: float = 10.0) -> int:
        """SIGTERM; returns its exit code, or raises TimeoutError when it is not gone in time."""
        return await self._end(signal.SIGTERM, within_s=within_s)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals, *, within_s: float) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._signal(number)
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self._page + path, timeout=2.0) as answer:  # noqa: S310 - our own
                body: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
        except OSError:
            return None
        return body.decode()
