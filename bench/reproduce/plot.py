"""Charts as SVG text, written by hand: no plotting library is needed to run this project.

Values come as one number per seed: the mean is drawn, and a whisker from the lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.reproduce.seeds import mean

COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#475569", "#b91c1c")
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 40, 92  # room around the plot, pixels
LEGEND = 3  # names in a line
STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Line:
    """Values over x, joined."""

    name: str
    points: Sequence[tuple[float, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar in every group."""

    name: str
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed line across, with its name on it."""

    name: str
    value: float


class Canvas:
    """The frame of a chart: title, y axis and legend; x runs from 0 to 1 between the margins."""

    def __init__(self, title: str, y_name: str, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
            f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_name)}</text>',
        ]
        step = next((s for s in STEPS if (high - low) / s <= 7), STEPS[-1])
        first = -(-low // step)
        for k in range(int((high - first * step) / step + 1e-9) + 1):
            y = (first + k) * step
            colour = "#888" if abs(y) < 1e-9 else "#ddd"
            self.parts.append(
                f'<path d="M{LEFT} {self.down(y):.1f}H{WIDTH - RIGHT}" stroke="{colour}"/>'
                f'<text x="{LEFT - 6}" y="{self.down(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>'
            )

    @staticmethod
    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x

    def down(self, y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - y) / (self.high - self.low)

    def tick(self, x: float, label: str, *, name: bool = False) -> None:
        """A mark of the x axis, or its name below the marks."""
        y = HEIGHT - BOTTOM + (38 if name else 18)
        self.parts.append(
            f'<text x="{self.across(x):.1f}" y="{y}" text-anchor="middle">{escape(label)}</text>'
        )

    def whisker(self, x: float, values: Sequence[float], colour: str) -> None:
        top, bottom = self.down(max(values)), self.down(min(values))
        place = self.across(x)
        self.parts.append(f'<path d="M{place:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}"/>')

    def finish(self, names: Sequence[str]) -> str:
        """The picture, with the legend.

        Raises:
            ValueError: there are more names than colours, and lines of the legend.
        """
        if len(names) > len(COLOURS):
            raise ValueError(f"{len(names)} names are too many for {len(COLOURS)} colours")
        for number, name in enumerate(names):
            x = LEFT + number % LEGEND * 190
            y = HEIGHT - 30 + number // LEGEND * 18
            colour = COLOURS[number % len(COLOURS)]
            self.parts.append(
                f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
                f'<text x="{x + 15}" y="{y}">{escape(name)}</text>'
            )
        return "\n".join([*self.parts, "</svg>", ""])


def chart(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[Line],
    *,
    top: float | None = None,
    levels: Sequence[Level] = (),
) -> str:
    """Lines over x, with a mark at every x that has a value."""
    xs = sorted({x for line in lines for x, _ in line.points})
    values = [value for line in lines for _, seeds in line.points for value in seeds]
    values += [level.value for level in levels]
    low, high = min(0.0, *values), top or max(values) * 1.05
    canvas = Canvas(title, axes[1], low, high)

    def place(x: float) -> float:
        return 0.03 + 0.94 * (x - xs[0]) / (xs[-1] - xs[0] or 1.0)

    for level in levels:
        y = canvas.down(level.value)
        canvas.parts.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#444" stroke-dasharray="4 4"/>'
            f'<text x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end" fill="#444">'
            f"{escape(level.name)}</text>"
        )
    for x in xs:
        canvas.tick(place(x), f"{x:g}")
    canvas.tick(0.5, axes[0], name=True)
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        spots = [(canvas.across(place(x)), canvas.down(mean(seeds))) for x, seeds in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        canvas.parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (at, seeds) in zip(spots, line.points, strict=True):
            canvas.whisker(place(at), seeds, colour)
            canvas.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    return canvas.finish([line.name for line in lines])


def bars(
    title: str, y_name: str, groups: Sequence[str], series: Sequence[Bars], *, top: float
) -> str:
    """Groups of bars from zero, a colour for each of the series."""
    canvas = Canvas(title, y_name, 0.0, top)
    width = 0.8 / len(groups) / len(series)
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        for group, seeds in enumerate(one.values):
            x = (group + 0.1) / len(groups) + number * width
            left, right = canvas.across(x), canvas.across(x + 0.9 * width)
            y = canvas.down(mean(seeds))
            canvas.parts.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" '
                f'height="{canvas.down(0) - y:.1f}" fill="{colour}"/>'
            )
            canvas.whisker(x + 0.45 * width, seeds, "#111")
    for group, name in enumerate(groups):
        canvas.tick((group + 0.5) / len(groups), name)
    return canvas.finish([one.name for one in series])
