"""Health answers whoever asks, and says what is wrong."""

import socket
import urllib.error
import urllib.request

import orjson
import pytest

from gateway.health import Health, serve_health
from gateway.metrics import Metrics


def ask(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, orjson.loads(error.read())


def test_a_client_that_says_nothing_keeps_nobody_from_an_answer_or_from_stopping() -> None:
    with serve_health(Health(), Metrics(), host="127.0.0.1", port=0) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]

        assert ask(port, "/healthz") == (200, {"ok": True, "problems": {}})
    for each in silent:
        each.close()


@pytest.mark.parametrize("problem", [None, "not connected to the broker"])
def test_ready_names_what_is_missing(problem: str | None) -> None:
    health = Health()
    health.watch("telemetry session", lambda: problem)

    metrics = Metrics()

    with serve_health(health, metrics, host="127.0.0.1", port=0) as port:
        status, said = ask(port, "/readyz")
        assert metrics.value("gateway_ready") == (problem is None)

    assert status == (200 if problem is None else 503)
    assert said["problems"] == ({} if problem is None else {"telemetry session": problem})


def test_metrics_are_in_the_text_that_prometheus_reads() -> None:
    with serve_health(Health(), Metrics(), host="127.0.0.1", port=0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()

    assert 'gateway_deliveries_total{outcome="applied"} 0.0' in text
