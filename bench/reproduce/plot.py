"""Charts as SVG, drawn by matplotlib, which the development environment has (`make setup-dev`).

Values are given per seed: a mark is their mean, its whisker spans the lowest to the highest seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from bench.reproduce.seeds import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Line:
    """Values over x, joined by a line: pairs (x, values by seed)."""

    name: str
    points: Sequence[tuple[float, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar per group: values by seed of each group."""

    name: str
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed horizontal line with its name on it."""

    name: str
    value: float


def chart(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[Line],
    *,
    top: float | None = None,
    levels: Sequence[Level] = (),
) -> str:
    """Return lines over x as SVG, with a tick at every x that has a value."""
    return _svg(draw_chart(title, axes, lines, top=top, levels=levels))


def bars(
    title: str, y_name: str, groups: Sequence[str], series: Sequence[Bars], *, top: float
) -> str:
    """Return groups of bars as SVG, one colour per series."""
    return _svg(draw_bars(title, y_name, groups, series, top=top))


def draw_chart(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[Line],
    *,
    top: float | None = None,
    levels: Sequence[Level] = (),
) -> Figure:
    """Draw what `chart` writes."""
    figure, plot = _new(title, axes)
    for line in lines:
        seeds = [values for _, values in line.points]
        plot.errorbar(
            [x for x, _ in line.points],
            list(map(mean, seeds)),
            yerr=_whiskers(seeds),
            label=line.name,
            marker="o",
            markersize=4,
        )
    for level in levels:
        plot.axhline(level.value, color="0.3", linestyle="--", linewidth=1)
        plot.annotate(
            level.name,
            (1, level.value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            horizontalalignment="right",
        )
    ticks = sorted({x for line in lines for x, _ in line.points})
    plot.set_xticks(ticks, [f"{x:g}" for x in ticks])
    lowest = min(value for line in lines for _, values in line.points for value in values)
    plot.set_ylim(bottom=min(0.0, lowest), top=top)
    return figure


def draw_bars(
    title: str, y_name: str, groups: Sequence[str], series: Sequence[Bars], *, top: float
) -> Figure:
    """Draw what `bars` writes."""
    figure, plot = _new(title, ("", y_name))
    width = 0.8 / len(series)
    for number, bar in enumerate(series):
        left = (number - (len(series) - 1) / 2) * width
        plot.bar(
            [group + left for group in range(len(groups))],
            list(map(mean, bar.values)),
            width=0.9 * width,
            yerr=_whiskers(bar.values),
            label=bar.name,
        )
    plot.set_xticks(range(len(groups)), groups)
    plot.set_ylim(0, top)
    return figure


def _new(title: str, axes: tuple[str, str]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    plot = figure.subplots()
    plot.set_title(title, fontsize="medium")
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.grid(axis="y", color="0.85")
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
    return figure, plot


def _whiskers(seeds: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the distances from the means down to the lowest and up to the highest seed."""
    return [
        [mean(values) - min(values) for values in seeds],
        [max(values) - mean(values) for values in seeds],
    ]


def _svg(figure: Figure) -> str:
    """Return the picture; equal values give equal text, so that a second run changes no file."""
    from matplotlib import rc_context

    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "composer"}):
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=about)
    # Hundredths of a point are enough, and keep the files small.
    rounded = re.sub(r"(\d\.\d\d)\d+", r"\1", text.getvalue())
    return "\n".join(line.strip() for line in rounded.splitlines()) + "\n"
