"""/metrics, /healthz and /readyz over HTTP, from a thread that a blocked loop cannot silence."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson
from prometheus_client import make_wsgi_app

from gateway.metrics import Metrics

BLOCKED_S: Final = 10.0
"""Seconds without a turn of the event loop after which the process is not healthy."""

Condition = Callable[[], str | None]
"""Why something is not ready, or None when it is."""


class Health:
    """Whether the process lives and what keeps it from being ready."""

    def __init__(self) -> None:
        self._conditions: dict[str, Condition] = {}
        self._turned_at = time.monotonic()

    def watch(self, name: str, condition: Condition) -> None:
        """Make readiness depend on `condition`."""
        self._conditions[name] = condition

    async def beat(self) -> None:
        """Note every second, for ever, that the event loop turns."""
        while True:
            self._turned_at = time.monotonic()
            await asyncio.sleep(1.0)

    def alive(self) -> tuple[bool, dict[str, str]]:
        """Whether the event loop turned lately."""
        silent_s = time.monotonic() - self._turned_at
        if silent_s > BLOCKED_S:
            return False, {"event_loop": f"has not turned for {silent_s:.0f} s"}
        return True, {}

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether everything watched is as it should be; else what is not, by name."""
        problems = {name: why for name, ask in self._conditions.items() if (why := ask())}
        alive, blocked = self.alive()
        return alive and not problems, blocked | problems


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a client that says nothing must not keep others from an answer."""

    daemon_threads = True
    block_on_close = False


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, *_args: object) -> None:
        """Requests are no events of ours."""


@contextmanager
def serve_health(health: Health, metrics: Metrics, *, host: str, port: int) -> Iterator[int]:
    """Serve for as long as the block runs; gives the port, a free one for 0. Raises OSError."""
    metrics.ready.set_function(lambda: health.ready()[0])
    metrics_app = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - WSGI
        match environ["PATH_INFO"]:
            case "/metrics":
                page: Iterable[bytes] = metrics_app(environ, start_response)
                return page
            case "/healthz":
                good, problems = health.alive()
            case "/readyz":
                good, problems = health.ready()
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"/metrics /healthz /readyz\n"]
        status = "200 OK" if good else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [orjson.dumps({"ok": good, "problems": problems}) + b"\n"]

    server = make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
