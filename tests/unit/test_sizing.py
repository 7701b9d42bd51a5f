"""The README's table of sizes is computed from what it says was measured."""

import re
from pathlib import Path

import pytest

_README = Path(__file__).parents[2] / "README.md"
_EVERY_S, _PERIOD_S, _ROW_BYTES, _CONNECTION_KB = 10, 30, 252, 30


def table() -> dict[str, list[list[float]]]:
    """The numbers of each cell, by the first cell of the row."""
    text = _README.read_text().split("\n### How large a machine\n")[1].split("\n### ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: [numbers(cell) for cell in row[1:]] for row in rows}


def numbers(cell: str) -> list[float]:
    """Of `1,667`, `36 GB` or `60, 21, 108`."""
    found = re.findall(r"\d[\d,.]*", cell.replace(", ", " "))
    return [float(each.replace(",", "")) for each in found]


def one(rows: dict[str, list[list[float]]], name: str) -> list[float]:
    """The row whose first cell begins so."""
    (found,) = (cells for key, cells in rows.items() if key.startswith(name))
    return [cell[0] for cell in found]


@pytest.mark.parametrize("column", range(4))
def test_rates_cores_and_disk_follow_from_the_measured_costs(column: int) -> None:
    rows = table()
    scooters = one(rows, "Scooters")[column]
    rate, snapshots = scooters / _EVERY_S, scooters / _PERIOD_S
    (costs,) = (cells[column] for key, cells in rows.items() if key.startswith("CPU µs a message"))
    cores = rate * sum(costs) / 1e6 + snapshots * one(rows, "CPU µs a row")[column] / 1e6

    assert one(rows, "messages/s")[column] == rate
    assert one(rows, "snapshot rows/s")[column] == pytest.approx(snapshots, abs=0.5)
    assert one(rows, "cores in use")[column] == pytest.approx(cores, abs=0.006)
    assert one(rows, "memory: broker")[column] == scooters * _CONNECTION_KB / 1000
    disk_gb = snapshots * 86_400 * _ROW_BYTES / 1e9
    assert one(rows, "disk")[column] == pytest.approx(disk_gb, rel=0.05)
