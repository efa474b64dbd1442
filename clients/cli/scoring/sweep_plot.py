"""Plots of a sweep: bars of text for terminals, and lines as SVG.

The client depends on no plotting library; a sweep needs two axes, ticks and lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

BAR_CHARACTERS = 16
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")

_WIDTH, _HEIGHT, _LINE = 640, 400, 18
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 620, 44, 340
"""Edges of the plot, in pixels."""

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points (x, y), in the order of x. Its name may be empty."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(values: Sequence[float]) -> list[str]:
    """Return a bar for each value, from none for the lowest to a whole one for the highest."""
    low, span = min(values), max(values) - min(values)
    eighths = (round((value - low) / (span or 1) * BAR_CHARACTERS * 8) for value in values)
    return ["█" * (count // 8) + _EIGHTHS[count % 8] for count in eighths]


def chart(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> str:
    """Return lines over x as SVG, with a tick at every x that has a value."""
    ys = [y for line in series for _, y in line.points]
    x_ticks = sorted({x for line in series for x, _ in line.points})
    y_ticks = _round_ticks(min(ys), max(ys))
    across, up = _Scale.over(x_ticks, _LEFT, _RIGHT), _Scale.over(y_ticks, _BOTTOM, _TOP)
    named = [line for line in series if line.name]
    height = _HEIGHT + _LINE * len(named)
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_WIDTH / 2, 24, title),
        *_axes(across, x_ticks, x_name, up, y_ticks, y_name),
    ]
    for number, line in enumerate(series):
        shapes += _line(line, _COLOURS[number % len(_COLOURS)], across, up)
    for number, line in enumerate(named):
        y, colour = _HEIGHT + _LINE * number, _COLOURS[number % len(_COLOURS)]
        shapes += [
            _stroke(f"M{_LEFT} {y - 4}h24", colour),
            _text(_LEFT + 32, y, line.name, "start"),
        ]
    return "\n".join([*shapes, "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values onto pixels; a single value comes to lie in the middle."""

    low: float
    high: float
    begin: float
    end: float

    @staticmethod
    def over(ticks: Sequence[float], begin: float, end: float) -> _Scale:
        low, high = ticks[0], ticks[-1]
        return _Scale(low, high, begin, end) if low < high else _Scale(low - 1, low + 1, begin, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def _round_ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, the first and last around the values."""
    rough = ((high - low) or abs(high) or 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _axes(
    across: _Scale,
    x_ticks: Sequence[float],
    x_name: str,
    up: _Scale,
    y_ticks: Sequence[float],
    y_name: str,
) -> Iterator[str]:
    for tick in y_ticks:
        yield _stroke(f"M{_LEFT} {up(tick)}H{_RIGHT}", "#d9d9d9", width=1)
        yield _text(_LEFT - 8, up(tick) + 4, f"{tick:g}", "end")
    for tick in x_ticks:
        yield _stroke(f"M{across(tick)} {_BOTTOM}v5", "black", width=1)
        yield _text(across(tick), _BOTTOM + 19, f"{tick:g}")
    yield _stroke(f"M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}", "black", width=1)
    yield _text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, x_name)
    x, y = 20, (_TOP + _BOTTOM) / 2
    yield f'<g transform="translate({x} {y}) rotate(-90)">{_text(0, 0, y_name)}</g>'


def _line(line: Series, colour: str, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across(x), up(y)) for x, y in line.points]
    yield _stroke("M" + "L".join(f"{x} {y}" for x, y in places), colour)
    for x, y in places:
        yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>'


def _stroke(path: str, colour: str, width: int = 2) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
