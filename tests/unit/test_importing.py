"""Reading a file to import: every row is judged before anything is done, by line and field."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract.topics import SCOOTER_ID
from devices.import_file import ImportRow, Problem, UnreadableImport, read_import
from devices.scooters import NewScooter

ids = st.from_regex(SCOOTER_ID, fullmatch=True).filter(
    lambda text: text.lower() not in {"gateway", "admin", "canary"}
)
words = st.text("abcdefgh ,;\"'é|", min_size=1, max_size=12).map(str.strip).filter(bool)


def rows_of(tmp_path: Path, text: str, name: str = "fleet.csv") -> list[ImportRow]:
    file = tmp_path / name
    file.write_bytes(text.encode())
    return read_import(file)


def problems_of(rows: list[ImportRow]) -> list[tuple[int, str]]:
    return [(row.line, problem.field) for row in rows for problem in row.problems]


def test_a_csv_row_becomes_a_scooter(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path,
        "scooter_id,vehicle_id,vehicle_type,tags,metadata.owner,metadata.lot\n"
        'SC-0001,B-17,scooter_seated,"berlin, new",Ann,\n',
    )

    assert row == ImportRow(
        line=2,
        scooter_id="SC-0001",
        scooter=NewScooter(
            "SC-0001", "B-17", "scooter_seated", ("berlin", "new"), {"owner": "Ann"}
        ),
    )


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    row = {
        "scooter_id": "SC-0001",
        "vehicle_id": "B-17",
        "tags": ["berlin"],
        "metadata": {"lot": 7},
    }
    (found,) = rows_of(tmp_path, json.dumps({**row, "metadata.owner": "Ann"}), "fleet.jsonl")

    assert found.scooter == NewScooter(
        "SC-0001", "B-17", tags=("berlin",), metadata={"lot": 7, "owner": "Ann"}
    )


def test_the_id_is_enough(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "scooter_id\nSC-0001\n")

    assert row.scooter is not None
    assert row.scooter.printed == "SC-0001"
    assert row.scooter.vehicle_type == "scooter_standing"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffscooter_id,tags\r\nSC-0001,a\r\n\r\nSC-0002,b\r\n",
        "scooter_id;tags\nSC-0001;a\n;\nSC-0002;b",
        '{"scooter_id":"SC-0001","tags":"a"}\n\n{"scooter_id":"SC-0002","tags":["b"],"vehicle_id":null}\n',
    ],
    ids=["excel", "semicolons", "json lines"],
)
def test_files_as_programs_write_them_are_understood(text: str, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, text)

    assert [(row.scooter_id, row.scooter and row.scooter.tags) for row in rows] == [
        ("SC-0001", ("a",)),
        ("SC-0002", ("b",)),
    ]


def test_each_bad_row_tells_its_line_and_field(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        "scooter_id,vehicle_id,vehicle_type,tags\n"
        "SC-0001,,,\n"
        "x,,,\n"
        'SC-0002,"a\nb",,\n'
        "SC-0003,,spaceship,\n"
        "SC-0004,,,-x\n"
        "SC-0005,,\n"
        "../../etc,,,\n"
        "Gateway,,,\n"
        "SC-0006,,,ok\n",
    )

    assert problems_of(rows) == [
        (3, "scooter_id"),
        (4, "vehicle_id"),
        (6, "vehicle_type"),
        (7, "tags"),
        (8, "row"),
        (9, "scooter_id"),
        (10, "scooter_id"),
    ]
    assert [row.scooter_id for row in rows if row.scooter] == ["SC-0001", "SC-0006"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"scooter_id": 7}', "scooter_id"),
        ('{"vehicle_id": "B-1"}', "scooter_id"),
        ('{"scooter_id": "SC-0001", "tags": [7]}', "tags"),
        ('{"scooter_id": "SC-0001", "metadata": "x"}', "metadata"),
        ('{"scooter_id": "SC-0001", "metadata": {"x": "a\\u0000b"}}', "metadata"),
        ('{"scooter_id": "SC-0001", "colour": "red"}', "colour"),
        ('{"scooter_id": "SC-0001"', "row"),
        ("[1]", "row"),
    ],
)
def test_each_bad_line_of_json_tells_its_field(text: str, field: str, tmp_path: Path) -> None:
    assert problems_of(rows_of(tmp_path, text, "fleet.jsonl")) == [(1, field)]


def test_of_two_rows_for_one_scooter_the_first_counts(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "scooter_id,vehicle_id\nSC-0001,A\nsc-0001,B\nSC-0002,A\nSC-0003,C\n")

    assert [row.problems for row in rows] == [
        (),
        (Problem("scooter_id", "sc-0001 is on line 2 already"),),
        (Problem("vehicle_id", "A is on line 2 already"),),
        (),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "name the columns"),
        (b"scooter_id\n", "no rows"),
        (b"name\nSC-0001\n", "`scooter_id` among them"),
        (b"scooter_id,scooter_id\nSC-0001,SC-0002\n", "'scooter_id' is there twice"),
        (b"scooter_id,colour\nSC-0001,red\n", "no column 'colour'"),
        (b"scooter_id\nSC-0001\n\xff\xfe\n", "line 3: not UTF-8"),
        (b'scooter_id\n"SC-0001\n', "line 2"),
    ],
)
def test_a_file_that_is_no_import_is_told_as_a_whole(
    content: bytes, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_bytes(content)

    with pytest.raises(UnreadableImport, match=told) as error:
        read_import(file)
    assert error.value.exit_code == 2


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImport, match="No such file"):
        read_import(tmp_path / "fleet.csv")


@given(
    st.lists(
        st.tuples(ids, words, st.lists(st.sampled_from(["a", "b", "c:d"]), max_size=3)),
        min_size=1,
        max_size=8,
        unique_by=(lambda row: row[0].lower(), lambda row: row[1]),
    )
)
def test_csv_and_json_lines_are_read_alike(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("import")
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["scooter_id", "vehicle_id", "tags"])
    writer.writerows([name, vehicle, " ".join(tags)] for name, vehicle, tags in rows)
    lines = "".join(
        json.dumps({"scooter_id": name, "vehicle_id": vehicle, "tags": tags}) + "\n"
        for name, vehicle, tags in rows
    )

    from_csv = rows_of(folder, table.getvalue())
    from_json = rows_of(folder, lines, "fleet.jsonl")

    assert [row.scooter for row in from_csv] == [row.scooter for row in from_json]
    assert [row.problems for row in from_csv] == [()] * len(rows)
