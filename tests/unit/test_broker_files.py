import base64
import hashlib
from pathlib import Path

import pytest

from broker.accounts import password_entry, write_password_file
from broker.config import SHIPPED_ACL, SHIPPED_CONFIG, Tls, fill_config, tls_listener

FILLED = {"listener", "persistence_location", "password_file", "acl_file"}


def settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_filled_config_differs_from_the_shipped_one_only_in_ports_and_paths() -> None:
    filled = fill_config(port=1, data=Path("/d"), passwords=Path("/p"), acl=Path("/a"))
    shipped = SHIPPED_CONFIG.read_text().splitlines()
    pairs = zip(shipped, filled.splitlines(), strict=True)
    changed = {before.split()[0]: after for before, after in pairs if before != after}

    assert changed.keys() == FILLED
    assert set(changed.values()) == {
        "listener 1 127.0.0.1",
        "persistence_location /d/",
        "password_file /p",
        "acl_file /a",
    }


def test_each_line_of_the_config_says_why_it_is_there() -> None:
    blocks = SHIPPED_CONFIG.read_text().strip().split("\n\n")

    unexplained = [block for block in blocks if settings(block) and not block.startswith("#")]

    assert unexplained == ["listener 8884 127.0.0.1"]  # under its heading


@pytest.mark.parametrize(
    "line",
    [
        "per_listener_settings false",
        "persistence true",
        "max_packet_size 16384",
        "max_queued_messages 2000000",
    ],
)
def test_what_keeps_messages_is_shipped(line: str) -> None:
    assert line in settings(SHIPPED_CONFIG.read_text())


def test_nobody_but_the_gateway_reads_an_uplink_or_writes_a_command() -> None:
    anonymous, gateway = SHIPPED_ACL.read_text().split("user gateway")

    assert [line for line in settings(anonymous) if "read" in line.split()[1]] == [
        "topic read scooters/+/commands",
        "topic read scooters/+/receipts",
        "topic read gateway/+/status",
    ]
    assert "topic write scooters/+/commands" in settings(gateway)
    assert "topic write scooters/+/commands" not in settings(anonymous)


def test_a_certificate_is_a_login_where_it_is_required() -> None:
    tls = Tls(Path("/ca"), Path("/crt"), Path("/key"), require_certificate=True)
    lines = settings(tls_listener(tls, port=8883))

    assert {"cafile /ca", "certfile /crt", "keyfile /key"} <= set(lines)
    assert {"require_certificate true", "use_identity_as_username true"} <= set(lines)


def test_a_password_entry_is_pbkdf2_over_a_salt_of_its_own() -> None:
    name, hashed = password_entry("gateway", "s3cret").split(":")
    _, kind, iterations, salt, digest = hashed.split("$")
    expected = hashlib.pbkdf2_hmac("sha512", b"s3cret", base64.b64decode(salt), int(iterations))

    assert (name, kind, iterations) == ("gateway", "7", "101")
    assert base64.b64decode(digest) == expected
    assert password_entry("gateway", "s3cret") != password_entry("gateway", "s3cret")


def test_the_password_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    write_password_file(file, {"gateway": "one", "admin": "two"})
    write_password_file(file, {"gateway": "three"})

    assert file.stat().st_mode & 0o777 == 0o600
    assert [line.split(":")[0] for line in file.read_text().splitlines()] == ["gateway"]
    assert list(tmp_path.iterdir()) == [file]
