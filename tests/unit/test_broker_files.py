"""The shipped broker files: what is filled in, what is said about each line, who may what."""

import re
import subprocess
from pathlib import Path

import pytest

from broker.config import SHIPPED_ACL, SHIPPED_CONFIG, Ports, Tls, fill_config, tls_listener
from broker.mosquitto import PidFileReload, ServiceReload, WatchedReload, parse_reload

WATCH = SHIPPED_CONFIG.with_name("watch-passwords.sh")
CONTENT = re.compile(r"(pattern|topic) (read|write|readwrite|deny) \S+|user [a-z]+")


def settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def filled(**changes: object) -> str:
    values: dict[str, object] = {
        "data": Path("/d"),
        "passwords": Path("/p"),
        "acl": Path("/a"),
        "certificate": Path("/c"),
        "key": Path("/k"),
        **changes,
    }
    return fill_config(**values)  # type: ignore[arg-type]


def listeners(text: str) -> dict[str, list[str]]:
    """The lines of each listener, by its first line."""
    found: dict[str, list[str]] = {}
    for line in settings(text):
        if line.startswith("listener "):
            found[line] = []
        elif found:
            list(found.values())[-1].append(line)
    return found


def test_the_filled_config_differs_from_the_shipped_one_only_in_ports_paths_and_user() -> None:
    text = filled(ports=Ports(1, 2, 3), address="127.0.0.1", user="me")
    shipped = SHIPPED_CONFIG.read_text().splitlines()
    pairs = zip(shipped, text.splitlines(), strict=True)
    changed = [after for before, after in pairs if before != after]

    assert changed == [
        "password_file /p",
        "acl_file /a",
        "user me",
        "pid_file /d/mosquitto.pid",
        "persistence_location /d/",
        "listener 1 127.0.0.1",
        "listener 2 127.0.0.1",
        *("certfile /c", "keyfile /k"),
        "listener 3 127.0.0.1",
        *("certfile /c", "keyfile /k"),
    ]


def test_only_the_plain_listener_stays_on_loopback_on_a_real_machine() -> None:
    text = filled()

    assert list(listeners(text)) == ["listener 8884 127.0.0.1", "listener 8885", "listener 8886"]
    assert listeners(text) == listeners(
        SHIPPED_CONFIG.read_text()
        .replace("/mosquitto/certificates/server.crt", "/c")
        .replace("/mosquitto/certificates/server.key", "/k")
    )


def test_who_speaks_tls_cannot_choose_a_client_id() -> None:
    internal, *public = listeners(SHIPPED_CONFIG.read_text()).values()

    assert not any("certfile" in line or "use_username" in line for line in internal)
    for lines in public:
        assert "use_username_as_clientid true" in lines
        assert "tls_version tlsv1.2" in lines
        assert any(line.startswith("max_connections ") for line in lines)


def test_a_shipped_file_without_a_line_to_fill_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "mosquitto.conf"
    other.write_text("listener 8884\n")
    monkeypatch.setattr("broker.config.SHIPPED_CONFIG", other)

    with pytest.raises(ValueError, match="has no line `listener 8885`"):
        filled()


def test_each_line_of_the_config_says_why_it_is_there() -> None:
    blocks = SHIPPED_CONFIG.read_text().strip().split("\n\n")

    unexplained = [block for block in blocks if settings(block) and not block.startswith("#")]

    assert unexplained == []


@pytest.mark.parametrize(
    "line",
    [
        "per_listener_settings false",
        "allow_anonymous false",
        "persistence true",
        "max_packet_size 16384",
        "max_queued_messages 2000000",
        "max_queued_bytes 268435456",
        "max_inflight_messages 1000",
    ],
)
def test_what_keeps_messages_and_strangers_is_shipped(line: str) -> None:
    assert settings(SHIPPED_CONFIG.read_text()).count(line) == 1


def test_no_option_is_given_twice_but_to_listeners() -> None:
    text = SHIPPED_CONFIG.read_text().split("\nlistener ")[0]
    names = [line.split()[0] for line in settings(text) if not line.startswith("log_dest")]

    assert len(names) == len(set(names))


def test_every_line_of_the_access_list_is_one_that_mosquitto_parses() -> None:
    # 2.0 lets everything pass after it reloaded a malformed list.
    assert [line for line in settings(SHIPPED_ACL.read_text()) if not CONTENT.fullmatch(line)] == []


def test_a_pattern_for_any_login_names_that_login_or_the_gateways_status() -> None:
    patterns = [line for line in settings(SHIPPED_ACL.read_text()) if line.startswith("pattern")]

    assert [line for line in patterns if "/%u/" not in line] == ["pattern read gateway/+/status"]


def test_only_patterns_stand_before_the_first_user() -> None:
    before = SHIPPED_ACL.read_text().split("\nuser ")[0]

    assert {line.split()[0] for line in settings(before)} == {"pattern"}


def test_a_certificate_is_a_login_where_it_is_required() -> None:
    tls = Tls(Path("/ca"), Path("/crt"), Path("/key"), require_certificate=True)
    lines = settings(tls_listener(tls, port=8883))

    assert {"cafile /ca", "certfile /crt", "keyfile /key"} <= set(lines)
    assert {"require_certificate true", "use_identity_as_username true"} <= set(lines)


@pytest.mark.parametrize(
    ("text", "reload"),
    [
        ("pid:/run/mosquitto.pid", PidFileReload(Path("/run/mosquitto.pid"))),
        ("service:mosquitto", ServiceReload("mosquitto")),
        ("watched", WatchedReload(Path("/p"))),
    ],
)
def test_a_way_to_reload_is_read_and_written_the_same(text: str, reload: object) -> None:
    assert parse_reload(text, Path("/p")) == reload
    assert str(reload) == text


@pytest.mark.parametrize("text", ["", "pid", "pid:", "service:", "service:--now", "watched:x", "x"])
def test_no_other_way_to_reload_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match="none of pid:PATH, service:UNIT and watched"):
        parse_reload(text, Path("/p"))


@pytest.mark.parametrize("arguments", [[], ["file"], ["--", "true"], ["file", "--"]])
def test_the_watcher_says_how_it_is_used(arguments: list[str]) -> None:
    done = subprocess.run([WATCH, *arguments], capture_output=True, text=True, check=False)  # noqa: S603

    assert done.returncode == 64
    assert done.stderr.startswith("usage: ")


def test_the_watcher_ends_as_the_broker_ends(tmp_path: Path) -> None:
    command = [str(WATCH), str(tmp_path / "none"), "--", "sh", "-c", "exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603

    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
