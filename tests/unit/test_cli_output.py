import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from devices.console.output import Form, as_text, print_json, print_rows, print_table, printable
from gateway.console.running import masked, masked_url

AT = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)


async def rows(*found: dict[str, object]) -> AsyncIterator[dict[str, object]]:
    for row in found:
        yield row


ROW: dict[str, object] = {"at": AT, "speed_kmh": 12.5, "charging": False, "lock": None}


async def test_rows_in_json_are_one_document_with_typed_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = await print_rows(rows(ROW, ROW), Form.JSON, columns=list(ROW), brief=["at"])

    expected = {"at": "2026-11-01T08:30:00.000Z", "speed_kmh": 12.5, "charging": False}
    assert json.loads(capsys.readouterr().out) == [expected | {"lock": None}] * 2
    assert count == 2


async def test_no_rows_in_json_are_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    await print_rows(rows(), Form.JSON, columns=["at"], brief=["at"])

    assert json.loads(capsys.readouterr().out) == []


async def test_rows_in_csv_have_a_header_and_leave_the_unknown_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await print_rows(rows(ROW), Form.CSV, columns=list(ROW), brief=["at"])

    header, line = capsys.readouterr().out.splitlines()
    assert header == "at,speed_kmh,charging,lock"
    assert line == "2026-11-01T08:30:00.000Z,12.5,false,"


async def test_a_table_has_only_the_brief_columns(capsys: pytest.CaptureFixture[str]) -> None:
    await print_rows(rows(ROW), Form.TABLE, columns=list(ROW), brief=["speed_kmh", "lock"])

    assert capsys.readouterr().out == "speed_kmh  lock\n12.5       -\n"


def test_a_document_for_a_program_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"at": AT, "lat": 48.1})

    assert capsys.readouterr().out == '{"at":"2026-11-01T08:30:00.000Z","lat":48.1}\n'


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "age"), [("SC-0001", "3 s"), ("SC-2", None)])

    assert capsys.readouterr().out == "id       age\nSC-0001  3 s\nSC-2     -\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x00", "\u202e", "\x9b0m"])
def test_nothing_from_a_scooter_can_steer_the_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert as_text(text).isprintable()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://gw:s3cr3t@db:6379/0", "redis://gw:********@db:6379/0"),
        ("redis://:s3cr3t@db/0", "redis://:********@db/0"),
        (
            "redis://db:6379/0?username=gw&password=s3cr3t",
            "redis://db:6379/0?username=gw&password=********",
        ),
        ("postgresql://gw@db/scooters", "postgresql://gw@db/scooters"),
        ("postgresql://gw:s3cr3t@[::1]:5432/s", "postgresql://gw:********@[::1]:5432/s"),
        ("postgresql://gw:s3cr3t@a:1,b:2/s", "postgresql://gw:********@a:1,b:2/s"),
        ("postgresql://gw:s3c/r3t@db/s", "********"),
        ("postgresql://gw:s3c#r3t@db/s", "********"),
    ],
)
def test_no_password_is_shown_in_an_address(url: str, shown: str) -> None:
    assert "s3c" not in masked_url(url)
    assert masked_url(url) == shown


def test_secrets_are_masked_and_other_settings_are_not() -> None:
    assert masked(SecretStr("s3cr3t")) == "********"
    assert masked(SecretStr("redis://:s3cr3t@db/0")) == "redis://:********@db/0"
    assert masked(1883) == 1883
    assert masked(None) is None
