"""Line plots as SVG text, readable on light and dark paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 58, 46
_FONT = 'font-family="sans-serif" font-size="12"'
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: lines by name over the same `xs`; the y axis begins at 0."""

    title: str
    x_label: str
    xs: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    log_x: bool = False


def draw(title: str, panels: Sequence[Panel]) -> str:
    """An SVG with the panels two in a row."""
    rows = math.ceil(len(panels) / 2)
    width, height = 2 * _WIDTH, rows * _HEIGHT + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % 2 * _WIDTH, number // 2 * _HEIGHT + 34
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def nice_top(highest: float) -> float:
    """The smallest of 1, 2, 2.5, 5 or 10 times a power of ten that is not below `highest`."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= highest)


def _panel(panel: Panel) -> list[str]:
    top = nice_top(max(max(values) for values in panel.lines.values()))
    places = _places(panel)
    bottom = _HEIGHT - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(panel.title)}</text>']
    for step in range(5):
        y = bottom - step * (bottom - _TOP) / 4
        parts += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * step / 4:,.4g}</text>',
        ]
    for x, number in zip(places, panel.xs, strict=True):
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number:,}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    label = escape(panel.x_label)
    parts.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{label}</text>')
    for number, (name, values) in enumerate(panel.lines.items()):
        ys = [bottom - value / top * (bottom - _TOP) for value in values]
        parts += _line(name, list(zip(places, ys, strict=True)), number)
    return parts


def _places(panel: Panel) -> list[float]:
    """Where each x stands."""
    scaled = [math.log10(x) if panel.log_x else x for x in panel.xs]
    low, span = min(scaled), (max(scaled) - min(scaled)) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT - 40
    return [_LEFT + 20 + (each - low) / span * inner for each in scaled]


def _line(name: str, points: Sequence[tuple[float, float]], number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x = _LEFT + number * 112
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *dots,
        f'<rect x="{x}" y="32" width="10" height="10" fill="{colour}"/>',
        f'<text x="{x + 15}" y="41">{escape(name)}</text>',
    ]
