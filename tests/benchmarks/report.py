"""The figures as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from tests.benchmarks.figures import Figure
from tests.benchmarks.seed import WAYS

_VERDICTS: Final = {True: "[green]reached[/green]", False: "[red]missed[/red]", None: ""}


def figures_table(figures: Sequence[Figure]) -> Table:
    """One line a figure: median, spread over repetitions, target and verdict."""
    table = Table("what", title="Benchmark")
    for name in ("median", "spread", "target"):
        table.add_column(name, justify="right")
    table.add_column("")
    for figure in figures:
        low, high = min(figure.values), max(figure.values)
        table.add_row(
            figure.what,
            f"{short(figure.value)} {figure.unit}".rstrip(),
            f"{short(low)} … {short(high)}" if len(figure.values) > 1 else "",
            _target(figure),
            _VERDICTS[figure.reached],
        )
    return table


def seed_table(answers: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line a way to keep the states."""
    table = Table("the same load, kept as", title="Is a database enough?")
    heads = ("messages/s", "CPU µs", "rows/message", "WAL bytes", "p99 ms", "lost", "fleet at 10 s")
    for head in heads:
        table.add_column(head, justify="right")
    for way, answer in answers.items():
        keys = (
            *("messages_per_s", "cpu_us", "rows_per_message", "wal_bytes_per_message"),
            *("visible_p99_ms", "lost_by_kill", "fleet"),
        )
        told = {**answer, "cpu_us": sum(answer["cpu_us"].values())}
        table.add_row(WAYS[way], *(short(told[key]) for key in keys))
    return table


def short(number: float) -> str:
    """Three digits that count, and no exponent."""
    if number == 0 or abs(number) >= 100:
        return f"{number:,.0f}"
    digits = 1 if abs(number) >= 10 else 2 if abs(number) >= 0.1 else 3
    return f"{number:.{digits}f}"


def _target(figure: Figure) -> str:
    if figure.at_most is not None:
        return f"≤ {short(figure.at_most)}"
    return f"≥ {short(figure.at_least)}" if figure.at_least is not None else ""
