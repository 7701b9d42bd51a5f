"""Bundles, and the places that keep them: nothing half-written, nothing readable by others."""

# ruff: noqa: S106 - these secrets are made up

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.bundle import Bundle, BundleFacts, login_of, operator_bundle, scooter_bundle
from devices.bundle_lines import LinesPlace, place_for_many
from devices.bundle_places import FilePlace, FolderPlace, NotKept, NotNamed, Place, place_for
from tests.full_disk import files_of_at_most

FACTS = BundleFacts(host="mqtt.example.org", authority_pem="-----BEGIN CERTIFICATE-----\n")


def bundle(name: str = "SC-0001", secret: str = "s" * 43) -> Bundle:
    return scooter_bundle(FACTS, name, secret=secret, generation=1)


def everything_in(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file()]


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    with place_for_many(folder / ("all.jsonl" if kind == "lines" else "all")) as place:
        yield place


def test_a_bundle_names_broker_authority_and_every_topic() -> None:
    document = json.loads(bundle().json())

    assert document == {
        "scooter_id": "SC-0001",
        "username": "SC-0001",
        "secret": "s" * 43,
        "host": "mqtt.example.org",
        "port": 8886,
        "authority": FACTS.authority_pem,
        "topics": {
            **{
                kind: f"scooters/SC-0001/{kind}"
                for kind in ("telemetry", "telemetry_batch", "events", "status", "acks")
            },
            "commands": "scooters/SC-0001/commands",
            "receipts": "scooters/SC-0001/receipts",
        },
    }


def test_a_fleet_secret_gives_each_credential_a_command_key_of_its_own() -> None:
    facts = BundleFacts(host="h", authority_pem="", fleet_secret="f" * 40)
    keys = {
        str(
            scooter_bundle(facts, name, secret="s", generation=generation).document()["command_key"]
        )
        for name in ("SC-0001", "SC-0002")
        for generation in (1, 2)
    }

    assert len(keys) == 4
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)


def test_an_operators_bundle_has_its_own_port_and_topics() -> None:
    document = json.loads(operator_bundle(FACTS, "alice.laptop", secret="s").json())

    assert "scooter_id" not in document
    assert document["port"] == 8885
    assert document["topics"] == {
        "commands": "operators/alice.laptop/commands",
        "replies": "operators/alice.laptop/replies",
    }


def test_no_secret_is_in_what_a_log_would_print() -> None:
    facts = BundleFacts(host="h", authority_pem="", fleet_secret="f" * 40)
    shown = repr(scooter_bundle(facts, "SC-0001", secret="topsecret", generation=1)) + repr(facts)

    assert "topsecret" not in shown
    assert "f" * 40 not in shown


@given(st.text(), st.text())
def test_the_login_of_a_bundle_is_read_back(username: str, secret: str) -> None:
    text = json.dumps({"username": username, "secret": secret})

    assert login_of(text) == (username, secret)
    assert login_of(text[:-1]) is None


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_nothing_that_was_only_prepared_is_found(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path) as place:
        place.prepare([bundle("SC-0001"), bundle("SC-0002")])
        assert place.secrets(["SC-0001", "SC-0002"]) == {}

        place.keep(["SC-0002"])
        assert place.secrets(["SC-0001", "SC-0002"]) == {"SC-0002": "s" * 43}

    with place_of(kind, tmp_path) as place:
        assert place.secrets(["SC-0001", "SC-0002"]) == {"SC-0002": "s" * 43}
    assert not [each for each in everything_in(tmp_path) if b"SC-0001" in each.read_bytes()]


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_a_later_bundle_takes_the_place_of_an_earlier_one(kind: str, tmp_path: Path) -> None:
    for secret in ("first", "second"):
        with place_of(kind, tmp_path) as place:
            place.prepare([bundle(secret=secret), bundle("SC-0002")])
            place.keep(["SC-0001", "SC-0002"])

    with place_of(kind, tmp_path) as place:
        assert place.secrets(["SC-0001"]) == {"SC-0001": "second"}
    assert not [each for each in everything_in(tmp_path) if b"first" in each.read_bytes()]


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_what_a_killed_process_prepared_is_no_bundle_and_goes(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path) as place:
        place.prepare([bundle(secret="of the dead")])
        left = {each: each.read_bytes() for each in everything_in(tmp_path)}
    for file, content in left.items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)

    with place_of(kind, tmp_path) as place:
        place.prepare([bundle(secret="of the living")])
        place.keep(["SC-0001"])
        assert place.secrets(["SC-0001"]) == {"SC-0001": "of the living"}

    assert not [each for each in everything_in(tmp_path) if b"of the dead" in each.read_bytes()]


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_nobody_else_may_read_a_bundle(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        for name in ("one.json", "folder", "all.jsonl"):
            with _either(tmp_path / name) as place:
                place.prepare([bundle()])
                assert {_mode(each) for each in everything_in(tmp_path)} == {0o600}
                place.keep(["SC-0001"])
    finally:
        os.umask(before)

    files = everything_in(tmp_path)
    assert len(files) == 4
    assert {_mode(each) for each in files} == {0o600}
    assert {_mode(each) for each in (tmp_path / "folder", tmp_path / "folder" / "SC-0001")} == {
        0o700
    }


def test_the_folder_has_the_authority_as_a_file_for_tools_that_want_one(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.prepare([bundle()])
    place.keep(["SC-0001"])

    assert (place.where("SC-0001") / "authority.crt").read_text() == FACTS.authority_pem


def test_many_folders_are_flushed_at_once_and_complete(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    names = [f"SC-{number:04}" for number in range(50)]
    place.prepare([bundle(name) for name in names])
    place.keep(names)

    assert place.secrets(names) == dict.fromkeys(names, "s" * 43)


def test_a_file_that_is_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("my thesis")

    with pytest.raises(NotKept, match=r"bundle\.json.*exists"):
        FilePlace(tmp_path / "bundle.json").prepare([bundle()])
    assert (tmp_path / "bundle.json").read_text() == "my thesis"


@pytest.mark.parametrize("kind", ["file", "link", "bundle", "authority", "closed"])
def test_a_name_that_cannot_be_taken_is_told_before_anything_is_written(
    kind: str, tmp_path: Path
) -> None:
    place = FolderPlace(tmp_path)
    name = place.where("SC-0001")
    match kind:
        case "file":
            name.touch()
        case "link":
            name.symlink_to(tmp_path / "nowhere")
        case "bundle":
            (name / "bundle.json").mkdir(parents=True)
        case "authority":
            (name / "authority.crt").mkdir(parents=True)
        case "closed":
            name.mkdir(mode=0o500)
            if os.access(name, os.W_OK):
                pytest.skip("root may write everywhere")

    with pytest.raises(NotKept, match=str(name)):
        place.prepare([bundle("SC-0002"), bundle()])
    assert list(tmp_path.iterdir()) == [name]


def test_one_name_that_cannot_be_taken_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    place, names = FolderPlace(tmp_path), ["SC-0001", "SC-0002", "SC-0003"]
    place.prepare([bundle(name) for name in names])
    place.where("SC-0002").touch()

    with pytest.raises(NotNamed, match=r"\.SC-0002\.new.*cannot get its name .*/SC-0002") as caught:
        place.keep(names)
    assert "s" * 43 not in str(caught.value)
    assert place.secrets(names).keys() == {"SC-0001", "SC-0003"}
    assert place.unnamed() == {"SC-0002": "s" * 43}

    place.prepare([bundle("SC-0004")])
    place.keep([])
    assert place.unnamed() == {"SC-0002": "s" * 43}
    place.where("SC-0002").unlink()
    place.keep(["SC-0002"])
    assert place.secrets(names).keys() == {*names}
    assert place.unnamed() == {}


@pytest.mark.parametrize("name", ["one.json", "folder", "all.jsonl"])
def test_what_may_be_committed_is_left_until_that_is_known(name: str, tmp_path: Path) -> None:
    with _either(tmp_path / name) as place:
        place.prepare([bundle()])
        place.leave()
        place.keep([])

    with _either(tmp_path / name) as place:
        assert {**place.unnamed(), **place.secrets(["SC-0001"])} == {"SC-0001": "s" * 43}


def test_lines_that_are_no_bundles_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text('{"id": "SC-0001"}\n')

    with (
        pytest.raises(NotKept, match="other things than bundles"),
        LinesPlace(tmp_path / "all.jsonl"),
    ):
        pass
    assert (tmp_path / "all.jsonl").read_text() == '{"id": "SC-0001"}\n'

    (tmp_path / "all.jsonl").write_text("")
    with LinesPlace(tmp_path / "all.jsonl") as place:
        assert place.secrets(["SC-0001"]) == {}


def test_lines_are_closed_to_others_also_in_a_file_that_was_open_to_them(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.touch()
    file.chmod(0o644)
    with LinesPlace(file) as place:
        place.prepare([bundle()])
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_power_cut_tore_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text(bundle().json_line() + bundle("SC-0002").json_line()[:40])

    with LinesPlace(file) as place:
        place.prepare([bundle("SC-0003")])
        place.keep(["SC-0003"])

    with LinesPlace(file) as place:
        assert set(place.secrets(["SC-0001", "SC-0002", "SC-0003"])) == {"SC-0001", "SC-0003"}
    assert all(login_of(line) for line in file.read_text().splitlines())


def test_one_process_at_a_time_writes_lines(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    with (
        LinesPlace(file),
        pytest.raises(NotKept, match="another process"),
        LinesPlace(file),
    ):
        pass


@pytest.mark.parametrize("name", ["one.json", "folder", "all.jsonl"])
def test_a_place_that_cannot_be_written_is_told_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / name

    with pytest.raises(NotKept, match=str(path)), _either(path) as place:
        place.prepare([bundle()])


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_a_full_disk_leaves_what_was_there(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path) as place:
        place.prepare([bundle()])
        place.keep(["SC-0001"])
        with files_of_at_most(2000), pytest.raises(NotKept, match="large"):
            place.prepare([bundle(f"SC-{n}", secret="x" * 3000) for n in range(10)])
        place.keep([])

    with place_of(kind, tmp_path) as place:
        assert place.secrets(["SC-0001", "SC-1", "SC-9"]) == {"SC-0001": "s" * 43}
    assert not [each for each in everything_in(tmp_path) if b"xxx" in each.read_bytes()]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _either(path: Path) -> Iterator[Place]:
    if path.suffix == ".json":
        yield place_for(path)
    else:
        with place_for_many(path) as place:
            yield place
