import os
import stat
from pathlib import Path

import orjson
import pytest

from devices.console.exits import CommandFailed, Exit
from gateway.console import operator_key

ALICE = {
    "username": "alice.laptop",
    "secret": "s3cret",
    "host": "mqtt.example",
    "port": 8885,
    "authority": "-----BEGIN CERTIFICATE-----",
    "topics": {},
}


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "scooter" / "keys"


def bundle(folder: Path, **changes: object) -> Path:
    file = folder / "bundle.json"
    file.write_bytes(orjson.dumps(ALICE | changes))
    return file


def test_a_bundle_is_a_file_or_the_folder_it_was_written_to(tmp_path: Path) -> None:
    file = bundle(tmp_path)

    assert operator_key.read_key(file) == operator_key.read_key(tmp_path)
    assert "s3cret" not in repr(operator_key.read_key(file))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"username": "SC-0001"}, "no operator's key"),
        ({"port": "8885"}, "no bundle of an operator's key"),
        ({"secret": None}, "no bundle of an operator's key"),
    ],
)
def test_what_is_no_operators_key_is_refused_without_its_secret(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(CommandFailed, match=said) as failed:
        operator_key.read_key(bundle(tmp_path, **changes))

    assert failed.value.exit_code == Exit.USAGE
    assert "s3cret" not in str(failed.value)


def test_the_key_used_last_is_the_one_that_is_used(tmp_path: Path, config: Path) -> None:
    for login in ("alice.laptop", "bob.desk"):
        operator_key.keep(operator_key.read_key(bundle(tmp_path, username=login)))

    assert operator_key.choose(None, None, None).login == "bob.desk"
    assert operator_key.choose("alice.laptop", None, None).login == "alice.laptop"
    assert operator_key.choose(None, None, None).login == "alice.laptop"
    usual = bundle(tmp_path, username="ci.runner")
    assert operator_key.choose(None, None, usual).login == "ci.runner"
    assert operator_key.choose("bob.desk", None, usual).login == "bob.desk"
    assert operator_key.choose(None, usual, None).login == "ci.runner"
    with pytest.raises(CommandFailed, match=r"is the key ci.runner, not bob.desk"):
        operator_key.choose("bob.desk", usual, None)
    operator_key.forget("bob.desk")
    assert operator_key.kept() == ["alice.laptop"]
    with pytest.raises(CommandFailed, match="with which key"):
        operator_key.choose(None, None, None)
    for each in config.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_a_key_that_is_in_use_names_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scooter", "lock", "SC-0001"])
    with operator_key.held("alice.laptop"), operator_key.held("bob.desk"):
        with (
            pytest.raises(
                CommandFailed, match=rf"`scooter lock SC-0001` \(process {os.getpid()}\)"
            ) as failed,
            operator_key.held("alice.laptop", wait_s=0),
        ):
            pytest.fail("two have it")
        assert failed.value.exit_code == Exit.REFUSED
        assert operator_key.is_held("alice.laptop")

    assert not operator_key.is_held("alice.laptop")


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))

    with pytest.raises(CommandFailed, match="XDG_CONFIG_HOME names another place"):
        operator_key.keep(operator_key.read_key(bundle(tmp_path)))
