import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from devices.console.exits import CommandFailed, Exit
from gateway.cli import app
from gateway.errors import GatewayError, ServerAway, SettingsError, StartRefused

COMMANDS = (
    *("demo", "gateway", "migrate", "settings", "doctor", "health", "state", "near", "watch"),
    *("snapshots", "events", "rejects", "reset-order", "erase", "setup", "simulate"),
)
GROUPS = {
    "devices": (
        *("add", "import", "list", "show", "tag", "suspend", "resume", "rotate", "revoke"),
        *("retire", "export", "reconcile"),
    ),
    "operators": ("add", "grant", "ungrant", "list", "revoke"),
    "operators key": ("add", "list", "rotate", "revoke"),
}
VERBS = [(*group.split(), verb) for group, verbs in GROUPS.items() for verb in verbs]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("SCOOTER_METRICS_PORT", "1")
    return CliRunner()


def test_help_lists_every_command_and_every_exit_code(runner: CliRunner) -> None:
    shown = runner.invoke(app, ["--help"])

    assert shown.exit_code == 0
    assert all(f"\n  {name} " in shown.output for name in COMMANDS)
    assert all(re.search(rf"\b{code.value}  \w", shown.output) for code in Exit)


def test_the_help_of_retire_shows_an_example(runner: CliRunner) -> None:
    assert (
        "Example: scooter gateway retire"
        in runner.invoke(app, ["gateway", "retire", "--help"]).output
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example(runner: CliRunner, command: str) -> None:
    shown = runner.invoke(app, [command, "--help"])

    assert shown.exit_code == 0
    assert re.search(rf"Example: .*scooter {command}", shown.output)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_help_of_each_verb_shows_an_example_json_and_the_exit_codes(
    runner: CliRunner, verb: tuple[str, ...]
) -> None:
    shown = runner.invoke(app, [*verb, "--help"])

    assert shown.exit_code == 0
    assert f"Example: scooter {' '.join(verb)}" in shown.output
    assert "--json" in shown.output
    assert all(re.search(rf"\b{code.value}  \w", shown.output) for code in Exit)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["state", "x"], "is no scooter id"),
        (["state", "SC 0001"], "is no scooter id"),
        (["state"], "Missing argument"),
        (["snapshots", "SC-0001", "--since", "soon"], "is no time"),
        (["snapshots", "SC-0001", "--json", "--csv"], "exclude each other"),
        (["snapshots", "SC-0001", "--since", "1h", "--until", "2h"], "must be before"),
        (["near", "91", "0"], "LAT"),
        (["near", "-33.9", "18.4", "--within", "far"], "is no distance"),
        (["near", "-33.9", "18.4", "--within", "0km"], "is no distance"),
        (["watch", "--for", "5 minutes"], "is no duration"),
        (["erase", "SC-0001", "--from", "2026-11-02", "--to", "2026-11-01"], "must be before"),
        (["erase", "SC-0001", "--from", "2026-11-02"], "--to"),
        (["devices", "add", "x"], "is no scooter id"),
        (["devices", "add", "SC-0001", "--tag", "a b"], "is no tag"),
        (["devices", "add", "SC-0001", "--metadata", "[]"], "is no JSON object"),
        (["devices", "add", "SC-0001", "SC-0002", "--vehicle-id", "A1"], "for one scooter"),
        (["devices", "import", "fleet.csv"], "--out is missing"),
        (["devices", "list", "--presence", "there"], "--presence"),
        (["devices", "list", "--json", "--csv"], "exclude each other"),
        (["devices", "tag", "SC-0001"], "--add TAG or --remove TAG"),
        (["devices", "tag", "SC-0001", "--add", "a", "--remove", "a"], "to add or to remove"),
        (["operators", "grant", "alice", "--any-scooter"], "--any-command"),
        (["lock", "SC-0001", "--wait", "0s"], "--no-wait"),
        (["fly"], "No such command"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence_with_exit_code_2(
    runner: CliRunner, arguments: list[str], said: str
) -> None:
    ended = runner.invoke(app, arguments)

    assert ended.exit_code == Exit.USAGE
    assert said in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerAway("redis", "it sleeps"), Exit.FAILED),
        (GatewayError("it sleeps"), Exit.FAILED),
        (CommandFailed("it sleeps", code=Exit.NOT_FOUND), Exit.NOT_FOUND),
        (SettingsError(["it sleeps", "it snores"]), Exit.USAGE),
        (StartRefused(["it sleeps"]), Exit.REFUSED),
        (ExceptionGroup("two", [GatewayError("it sleeps")]), Exit.FAILED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_goes_wrong_ends_with_its_exit_code_and_no_traceback(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: Exit
) -> None:
    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr("gateway.console.running.show_settings", fail)

    ended = runner.invoke(app, ["settings"])

    assert ended.exit_code == code
    assert ended.stdout == ""
    assert isinstance(error, KeyboardInterrupt) or "it sleeps\n" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_wrong_setting_is_told(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOOTER_MQTT_PORT", "port")
    monkeypatch.setenv("SCOOTER_SNAPSHOT_PERIOD_S", "-1")

    ended = runner.invoke(app, ["settings"])

    assert ended.exit_code == Exit.USAGE
    assert len(ended.stderr.splitlines()) == 2
    assert "SCOOTER_MQTT_PORT: " in ended.stderr
    assert "SCOOTER_SNAPSHOT_PERIOD_S: " in ended.stderr


def test_whoever_forgot_the_settings_is_told_where_they_are_named(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCOOTER_METRICS_PORT")

    ended = runner.invoke(app, ["rejects"])

    assert ended.exit_code == Exit.USAGE
    assert "SCOOTER_POSTGRES_URL: is not set" in ended.stderr
    assert "SCOOTER_ENV_FILE" in ended.stderr


@pytest.mark.parametrize(
    ("name", "url", "command"),
    [
        ("SCOOTER_REDIS_URL", "redis://127.0.0.1:1/0", "near 52.52 13.405"),
        ("SCOOTER_POSTGRES_URL", "postgresql://scooter@127.0.0.1:1/scooters", "rejects"),
    ],
)
def test_a_server_that_is_away_is_told_with_its_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, url: str, command: str
) -> None:
    monkeypatch.setenv(name, url)

    ended = runner.invoke(app, command.split())

    assert ended.exit_code == Exit.FAILED
    assert f"start it, or check {name}" in ended.stderr
    assert "SCOOTER_ENV_FILE" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["devices", "rotate", "SC-0001"],
        ["devices", "revoke", "SC-0001"],
        ["devices", "retire", "SC-0001"],
        ["operators", "revoke", "alice"],
        ["operators", "key", "rotate", "alice.laptop"],
        ["operators", "key", "revoke", "alice.laptop"],
    ],
    ids=" ".join,
)
def test_what_destroys_is_refused_without_a_terminal_and_without_yes(
    runner: CliRunner, arguments: list[str]
) -> None:
    ended = runner.invoke(app, arguments, input="y\n")

    assert ended.exit_code == Exit.REFUSED
    assert "--yes" in ended.stderr
    assert ended.stdout == ""


def test_erasing_without_a_terminal_is_refused_instead_of_waiting(runner: CliRunner) -> None:
    arguments = ["erase", "SC-0001", "--from", "2026-11-01", "--to", "2026-11-02"]

    ended = runner.invoke(app, arguments, input="y\n")

    assert ended.exit_code == Exit.REFUSED
    assert "--yes" in ended.stderr
