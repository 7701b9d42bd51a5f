"""A file of scooters to import, CSV or JSON lines: rows, each with what is wrong with it."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from broker.errors import FleetError
from devices.console.exits import Exit
from devices.scooters import NewScooter

FIELDS: Final = ("scooter_id", "vehicle_id", "vehicle_type", "tags", "metadata")
"""What a row may have; in CSV, `metadata.owner` is one column of the metadata."""

_PLAIN: Final = FIELDS[:-1]
_METADATA: Final = "metadata."
_BETWEEN_TAGS: Final = re.compile(r"[\s,;|]+")


class UnreadableImport(FleetError):
    """The file as a whole cannot be imported."""

    exit_code = Exit.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field of a row: `reason` is a sentence."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One row; `line` is where it begins, from 1. Without problems it has a scooter."""

    line: int
    scooter_id: str
    scooter: NewScooter | None = None
    problems: tuple[Problem, ...] = ()


def read_import(path: Path) -> list[ImportRow]:
    """Every row, checked as far as that is possible without the registry.

    `.jsonl` and `.ndjson`, or a first character `{`, mean JSON lines, anything else CSV with a
    header, separated by commas or semicolons. Raises UnreadableImport.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UnreadableImport(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UnreadableImport(f"{path}, line {line}: not UTF-8") from error
    is_json = path.suffix in {".jsonl", ".ndjson"} or text.lstrip().startswith("{")
    rows = list(_unique(_json_rows(text) if is_json else _csv_rows(text, path)))
    if not rows:
        raise UnreadableImport(f"{path} has no rows")
    return rows


def _csv_rows(text: str, path: Path) -> Iterator[ImportRow]:
    first = text.split("\n", 1)[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = _columns(next(reader, []), path)
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _csv_row(line, columns, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UnreadableImport(f"{path}, line {reader.line_num}: {error}") from error


def _columns(header: list[str], path: Path) -> list[str]:
    columns = [name.strip() for name in header]
    if "scooter_id" not in columns:
        raise UnreadableImport(
            f"{path}: the first line must name the columns, `scooter_id` among them"
        )
    for name in columns:
        if columns.count(name) > 1:
            raise UnreadableImport(f"{path}: the column {name!r} is there twice")
        if name not in _PLAIN and not (name.startswith(_METADATA) and name != _METADATA):
            raise UnreadableImport(
                f"{path}: there is no column {name!r}: {', '.join(_PLAIN)}, metadata.NAME"
            )
    return columns


def _csv_row(line: int, columns: list[str], cells: list[str]) -> ImportRow:
    row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    if len(cells) != len(columns):
        problem = Problem("row", f"{len(cells)} cells, but the header has {len(columns)}")
        return ImportRow(line, row.get("scooter_id", ""), problems=(problem,))
    metadata = {
        name.removeprefix(_METADATA): cell
        for name, cell in row.items()
        if name.startswith(_METADATA) and cell
    }
    plain = {name: cell for name, cell in row.items() if not name.startswith(_METADATA) and cell}
    return _row(line, {**plain, "metadata": metadata})


def _json_rows(text: str) -> Iterator[ImportRow]:
    # Not splitlines(): a JSON text may hold U+2028 as it is.
    for line, each in enumerate(text.split("\n"), 1):
        if not each.strip():
            continue
        try:
            row = orjson.loads(each)
        except orjson.JSONDecodeError as error:
            yield ImportRow(line, "", problems=(Problem("row", f"not JSON: {error}"),))
            continue
        if isinstance(row, dict):
            yield _row(line, _gathered(row))
        else:
            yield ImportRow(line, "", problems=(Problem("row", "not a JSON object"),))


def _gathered(row: dict[str, Any]) -> dict[str, Any]:
    """`metadata.owner` beside `metadata`, as CSV has it, and null for what is not told."""
    told = {name: value for name, value in row.items() if value is not None}
    dotted = {name: told.pop(name) for name in list(told) if name.startswith(_METADATA)}
    metadata = told.get("metadata", {})
    if dotted and isinstance(metadata, dict):
        told["metadata"] = {
            **metadata,
            **{name.removeprefix(_METADATA): value for name, value in dotted.items()},
        }
    return told


def _row(line: int, row: Mapping[str, Any]) -> ImportRow:
    problems = [
        Problem(name, f"there is no field {name!r}: one of {', '.join(FIELDS)}")
        for name in row
        if name not in FIELDS
    ]
    problems += [
        Problem(name, f"{name}: a text, not {row[name]!r}")
        for name in ("scooter_id", "vehicle_id", "vehicle_type")
        if not isinstance(row.get(name, ""), str)
    ]
    tags = _tags(row.get("tags", ""))
    if tags is None:
        problems.append(Problem("tags", "tags: one text, or an array of texts"))
    if not isinstance(row.get("metadata", {}), dict):
        problems.append(Problem("metadata", "metadata: a JSON object"))
    scooter_id = str(row.get("scooter_id", ""))
    if problems:
        return ImportRow(line, scooter_id, problems=tuple(problems))
    scooter = NewScooter(
        scooter_id=scooter_id,
        vehicle_id=row.get("vehicle_id", ""),
        vehicle_type=row.get("vehicle_type") or "scooter_standing",
        tags=tags or (),
        metadata=row.get("metadata", {}),
    )
    return _checked(ImportRow(line, scooter_id, scooter))


def _tags(value: object) -> tuple[str, ...] | None:
    """Tags in one text are separated by spaces, commas, semicolons or bars."""
    match value:
        case str():
            return tuple(each for each in _BETWEEN_TAGS.split(value) if each)
        case list() if all(isinstance(tag, str) for tag in value):
            return tuple(value)
    return None


def _checked(row: ImportRow) -> ImportRow:
    """The registry's own rules, told by the field they are about."""
    if row.scooter is None or row.scooter.problem is None:
        return row
    reason = row.scooter.problem
    return replace(row, scooter=None, problems=(Problem(_field_of(row.scooter), reason),))


def _field_of(scooter: NewScooter) -> str:
    """The field without which the same row would do, or do better."""
    named = NewScooter(scooter_id="any")
    alone = {
        "scooter_id": NewScooter(scooter_id=scooter.scooter_id),
        "vehicle_id": replace(named, vehicle_id=scooter.vehicle_id),
        "vehicle_type": replace(named, vehicle_type=scooter.vehicle_type),
        "tags": replace(named, tags=scooter.tags),
        "metadata": replace(named, metadata=scooter.metadata),
    }
    return next((name for name, each in alone.items() if each.problem), "row")


def _unique(rows: Iterator[ImportRow]) -> Iterator[ImportRow]:
    """Of two rows that name one scooter the first counts."""
    ids: dict[str, int] = {}
    printed: dict[str, int] = {}
    for row in rows:
        if row.scooter is None:
            yield row
            continue
        # Ids that differ only in case are mistaken for one another, and the registry refuses them.
        same_id = ids.setdefault(row.scooter_id.lower(), row.line)
        same_vehicle = printed.setdefault(row.scooter.printed, row.line)
        if same_id != row.line:
            problem = Problem("scooter_id", f"{row.scooter_id} is on line {same_id} already")
        elif same_vehicle != row.line:
            problem = Problem(
                "vehicle_id", f"{row.scooter.printed} is on line {same_vehicle} already"
            )
        else:
            yield row
            continue
        yield replace(row, scooter=None, problems=(problem,))
