"""What a command prints: data on standard output as a table, JSON or CSV; talk on stderr."""

import csv
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime
from enum import Enum, auto
from typing import Final

import orjson

from devices.console.exits import CommandFailed
from devices.console.spans import rfc3339

Row = Mapping[str, object]

_GAP: Final = "  "
_SIGPIPE: Final = 128 + 13
"""What a shell reports for a filter whose reader went away."""


class Form(Enum):
    """How rows are printed."""

    TABLE = auto()
    JSON = auto()
    CSV = auto()


def talk(text: str) -> None:
    """Say something to the person at the terminal; never data."""
    sys.stderr.write(f"{text}\n")


def write(text: str, *, at_once: bool = False) -> None:
    """Write data; ends the process like any filter when nobody reads it any more (`| head`).

    Raises CommandFailed when it cannot be written: a full disk.
    """
    try:
        sys.stdout.write(text)
        if at_once:
            sys.stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere, else the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(_SIGPIPE) from None
        raise CommandFailed(
            f"standard output cannot be written ({error.strerror}): what was to be shown is lost"
        ) from error


def print_json(document: object) -> None:
    """One JSON document: indented for a person, one line for a program."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    write(f"{json_text(document, option)}\n")


def print_json_line(document: object) -> None:
    """One line of JSON lines, at once."""
    write(f"{json_text(document)}\n", at_once=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns under a header; nothing else, so that `awk` can read it."""
    texts = [list(columns), *([as_text(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(columns))]
    for row in texts:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        write(_GAP.join(cells).rstrip() + "\n")


async def print_rows(
    rows: AsyncIterator[Row], form: Form, *, columns: Sequence[str], brief: Sequence[str]
) -> int:
    """Print rows as they come and return how many there were.

    JSON (an array) and CSV have all `columns`, the table only the `brief` ones.
    """
    match form:
        case Form.JSON:
            return await _print_json_array(rows, columns)
        case Form.CSV:
            return await _print_csv(rows, columns)
        case Form.TABLE:
            found = [[row[name] for name in brief] async for row in rows]
            if found:
                print_table(brief, found)
            return len(found)


def as_text(value: object) -> str:
    """One cell: `-` for what is unknown, and nothing that could steer the terminal."""
    match value:
        case None | "":
            return "-"
        case datetime():
            return rfc3339(value)
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.10g}"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Text from a scooter with every control and invisible character escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


async def _print_json_array(rows: AsyncIterator[Row], columns: Sequence[str]) -> int:
    count = 0
    write("[")
    async for row in rows:
        write("\n" if count == 0 else ",\n")
        write(json_text({name: row[name] for name in columns}))
        count += 1
    write("\n]\n" if count else "]\n")
    return count


class _Data:
    """Standard output as the csv module wants it."""

    def write(self, text: str) -> None:
        write(text)


async def _print_csv(rows: AsyncIterator[Row], columns: Sequence[str]) -> int:
    writer = csv.writer(_Data(), lineterminator="\n")
    writer.writerow(columns)
    count = 0
    async for row in rows:
        writer.writerow([_csv_cell(row[name]) for name in columns])
        count += 1
    return count


def _csv_cell(value: object) -> object:
    match value:
        case datetime():
            return rfc3339(value)
        case bool():
            return "true" if value else "false"
        case _:
            return value


def json_text(document: object, option: int = 0) -> str:
    """JSON with times by RFC 3339; `option` is orjson's."""
    return orjson.dumps(
        document, _plain, option | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
    ).decode()


def _plain(value: object) -> object:
    match value:
        case datetime():
            return rfc3339(value)
        case date():
            return value.isoformat()
        case _:
            raise TypeError(type(value).__name__)
