"""Alert rules: Prometheus accepts them, they fire for what they say, and README tells the same."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.metrics import Metrics
from tests.programs import promtool

_ROOT = Path(__file__).parents[2]
_RULES = _ROOT / "gateway/observability"
_OF_PROMETHEUS = {"up"}


def rules() -> dict[str, str]:
    """The text of each rule by its name."""
    found = re.split(
        r"^ +- alert: (\w+)\n", (_RULES / "alerts.yml").read_text(), flags=re.MULTILINE
    )
    return dict(zip(found[1::2], found[2::2], strict=True))


def member(rule: str, name: str) -> str:
    """The value of `name: …` or of `name: >-` and the lines under it, as one line."""
    found = re.search(rf"^( +){name}: (?:>-\n((?:\1 +.*\n)+)|(.*)$)", rule, flags=re.MULTILINE)
    assert found is not None, (name, rule)
    return " ".join((found[2] or found[3].strip('"')).split())


def rows() -> list[tuple[str, str, str]]:
    """README's table: alert, what it means, what to do."""
    section = (_ROOT / "README.md").read_text().split("\n## Run it for real\n")[1].split("\n## ")[0]
    return re.findall(
        r"^\| (?:\*\*)?`(\w+)`(?:\*\*)? \| (.*?) \| (.*?) \|$", section, flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=["configuration", "rules", "tests of the rules"],
)
@pytest.mark.timeout(300)  # it may have to be fetched
def test_prometheus_accepts_configuration_and_rules_and_each_alert_fires_when_it_should(
    arguments: list[str],
) -> None:
    done = subprocess.run(  # noqa: S603
        [promtool(), *arguments], cwd=_RULES, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_in_the_tests_of_the_rules() -> None:
    tested = (_RULES / "alerts_test.yml").read_text()

    assert [name for name in rules() if f'alertname="{name}"' not in tested] == []


def test_every_metric_in_the_rules_is_one_of_the_gateway() -> None:
    known = {
        sample
        for family in Metrics().registry.collect()
        for sample in (family.name, f"{family.name}_total")
    }
    used = {
        name
        for rule in rules().values()
        for name in re.findall(r"\b(?:gateway_\w+|up)\b", member(rule, "expr"))
    }

    assert used - known == _OF_PROMETHEUS


def test_readme_says_of_each_alert_what_its_rule_says() -> None:
    told = [
        (name, member(rule, "summary"), member(rule, "runbook")) for name, rule in rules().items()
    ]

    assert rows() == told


def test_every_command_in_a_runbook_exists() -> None:
    named = {
        found
        for rule in rules().values()
        for found in re.findall(r"`scooter ([a-z-]+(?: [a-z-]+)?)", member(rule, "runbook"))
    }
    assert len(named) > 5

    for each in named:
        asked = CliRunner().invoke(app, [*each.split(), "--help"])
        assert asked.exit_code == 0, each


def test_the_rules_find_the_gateways_by_the_name_that_prometheus_gives_them() -> None:
    (job,) = re.findall(r"job_name: (\S+)", (_RULES / "prometheus.yml").read_text())

    assert f'up{{job="{job}"}}' in member(rules()["GatewayDown"], "expr")


def test_readme_marks_exactly_the_alerts_that_wake_somebody() -> None:
    pages = {name for name, rule in rules().items() if member(rule, "labels") == "{severity: page}"}
    marked = set(
        re.findall(r"^\| \*\*`(\w+)`\*\* \|", (_ROOT / "README.md").read_text(), re.MULTILINE)
    )

    assert marked == pages
