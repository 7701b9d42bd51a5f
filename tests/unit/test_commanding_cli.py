import re

import pytest
from typer.testing import CliRunner

from devices.console.exits import Exit
from devices.console.options import named
from gateway.cli import app

VERBS = (
    *("lock", "unlock", "unlock-battery", "locate", "headlight", "alarm", "get-state"),
    *("reboot", "power-off", "set-speed-limit", "set-report-interval"),
)
COMMANDS = [
    *([verb] for verb in VERBS),
    *(["commands", verb] for verb in ("list", "show", "follow", "cancel")),
    ["login"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_shows_an_example_json_and_the_exit_codes(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"])

    assert shown.exit_code == 0
    assert f"Example: scooter {' '.join(command)}" in shown.output
    assert "--json" in shown.output
    assert all(re.search(rf"\b{code.value}  \w", shown.output) for code in Exit)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_lists_it(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command[:-1], "--help"])

    assert f"\n  {command[-1]} " in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lock"], "by ID or by --tag"),
        (["lock", "SC-0001", "--tag", "munich"], "by ID or by --tag"),
        (["lock", "SC 1"], "is no scooter id"),
        (["unlock", "SC-0001", "--ttl", "21s"], "unlock counts for 1 s to 20 s"),
        (["unlock", "SC-0001", "--ttl", "10ms"], "unlock counts for 1 s to 20 s"),
        (["lock", "SC-0001", "--abort-at", "half"], "is no share"),
        (["lock", "SC-0001", "--abort-at", "101%"], "is no share"),
        (["lock", "SC-0001", "--reason", "x" * 257], "at most 256 characters"),
        (["lock", "SC-0001", "--rate", "0"], "--rate"),
        (["locate", "SC-0001", "--seconds", "31"], "--seconds"),
        (["headlight", "SC-0001"], "--on or --off"),
        (["headlight", "SC-0001", "--on", "--off"], "--on or --off"),
        (["alarm", "SC-0001", "--off", "--on"], "--on or --off"),
        (["set-speed-limit", "SC-0001", "--kmh", "46"], "'--kmh': it takes at most 45"),
        (["set-speed-limit", "SC-0001", "--kmh", "-1"], "'--kmh': it takes at least 0"),
        (["set-speed-limit", "SC-0001", "--kmh", "slow"], "'--kmh': it takes a whole number"),
        (["lock", "SC-0001", "--rate", "slow"], "'--rate': it takes a number"),
        (["commands", "list", "--status", "nonsense"], "'--status': 'nonsense' is not one of"),
        (["set-report-interval", "SC-0001"], "--riding, --parked or both"),
        (["set-report-interval", "SC-0001", "--riding", "500ms"], "whole seconds"),
        (["set-report-interval", "SC-0001", "--riding", "2h"], "riding: "),
        (["commands", "show", "1"], "is no request id"),
        (["commands", "follow", "0" * 16, "--for", "1m"], "no other options"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(arguments: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, arguments)

    assert ended.exit_code == Exit.USAGE
    assert said in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["reboot", "SC-0001"],
        ["power-off", "SC-0001"],
        ["unlock", "SC-0001", "SC-0002"],
        ["lock", *(f"SC-{number:04d}" for number in range(11))],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_drastic_or_for_many_is_refused_without_a_terminal_and_without_yes(
    arguments: list[str],
) -> None:
    ended = CliRunner().invoke(app, arguments, input="y\n")

    assert ended.exit_code == Exit.REFUSED
    assert "--yes" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "SC-0001"), (3, "SC-0001, SC-0002, SC-0003"), (50, "50 scooters (SC-0001 … SC-0050)")],
)
def test_a_question_names_a_few_scooters_and_counts_many(count: int, said: str) -> None:
    assert named([f"SC-{number:04d}" for number in range(1, count + 1)]) == said
