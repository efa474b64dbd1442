"""Reproductions: merged against decoded on a slice, what is in the README, tables and plots."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.container import BarContainer

from adapters.weight_space.merge import METHODS
from bench.reproduce.__main__ import NAMES, main
from bench.reproduce.plot import Bars, Level, Line, chart, draw_bars, draw_chart
from bench.reproduce.readme import README, Report, markers, write
from bench.reproduce.seeds import cell, figure
from bench.reproduce.settings import candidates, documented

ROOT = Path(__file__).resolve().parent.parent.parent
MERGES = ("sum", "dare_ties", "wise_ft", "model_stock")
"""A plain one, one with a seed, one in two steps, one without weights."""

SLICE = ("--examples", "2", "--seeds", "1", "--cases", "two", "--no-choice", "--methods", *MERGES)


def rows_of(text: str) -> dict[str, list[str]]:
    """The Markdown table in a text: cells by the name of the row."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in lines}


def measured(section: str) -> str:
    begin, end = markers(section)
    return README.read_text(encoding="utf-8").split(begin)[1].split(end)[0]


@pytest.mark.engine
@pytest.mark.long
def test_a_slice_from_end_to_end() -> None:
    before = README.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "bench.reproduce", "merged", *SLICE],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = rows_of(done.stdout)
    assert rows["answers, %"] == ["two: arithmetic", "two: sort", "two: mean"]
    assert {name for name in rows if name[0] == "`"} == {f"`{name}`" for name in MERGES}
    assert {"sum of logits", "sum of differences"} < rows.keys()
    assert rows["base"] == ["0", "0", "0"]
    arithmetic, sort, mean = (int(cell) for cell in rows["each task's own adapter"])
    assert (arithmetic, mean) == (100, (100 + sort) // 2)
    means = re.search(r"own adapter: two (\d+) / (\d+) / (\d+) \(`", done.stdout)
    assert means, done.stdout
    assert all(int(value) > 0 for value in means.groups()), "an answer to two exercises of each"
    assert README.read_bytes() == before, "only a whole run may write"


def test_the_readme_has_every_method_and_every_way_to_decode() -> None:
    shown = measured("merged")
    rows = rows_of(shown)
    wanted = {f"`{method.name}`" for method in METHODS} | {"sum of logits", "sum of differences"}
    assert wanted < rows.keys(), "run python -m bench.reproduce merged"
    width = len(rows["answers, %"])
    assert width == 3 + 3 + 5
    for name, cells in rows.items():
        assert len(cells) == width, name
        if name not in ("answers, %", "---"):
            assert all(re.fullmatch(r"-|\d+ ±\d+", cell) for cell in cells), name
    # Its weights add up to 1, so that base + sum_k w_k (l_k - base) is the sum itself.
    assert rows["sum of differences"][3:6] == rows["sum of logits"][3:6]


def test_writing_keeps_what_is_around_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    begin, end = markers("x")
    readme.write_text(f"# Title\n\n{begin}old\n{end}\n\nafter\n", encoding="utf-8")
    write("x", Report("| new |", {"y": "<svg/>"}), readme)
    assert readme.read_text(encoding="utf-8") == f"# Title\n\n{begin}| new |\n{end}\n\nafter\n"
    assert (tmp_path / "plots" / "y.svg").read_text(encoding="utf-8") == "<svg/>"
    with pytest.raises(ValueError, match="lacks the lines <!-- z -->"):
        write("z", Report("| new |"), readme)


@pytest.mark.parametrize("section", NAMES)
def test_every_reproduction_is_in_the_readme(section: str) -> None:
    assert rows_of(measured(section)), f"run python -m bench.reproduce {section}"
    assert f"python -m bench.reproduce {section}" in README.read_text(encoding="utf-8")


def test_plots_in_the_readme_are_there_and_no_others() -> None:
    shown = set(re.findall(r"\]\((plots/[a-z_]+\.svg)\)", README.read_text(encoding="utf-8")))
    assert shown == {f"plots/{path.name}" for path in (README.parent / "plots").iterdir()}
    for name in shown:
        ElementTree.parse(README.parent / name)


def test_values_by_seed() -> None:
    assert cell([0.5, 0.7]) == "60 ±14"
    assert cell([0.5]) == "50"
    assert figure([1.0, 2.0], 1) == "1.5 ±0.7"


def test_charts_show_every_value_with_its_name() -> None:
    lines = [Line("one & two", [(0.0, [-0.5, -0.1]), (2.0, [1.0])]), Line("more", [(1.0, [0.2])])]
    picture = chart("title", ("x", "y"), lines, levels=[Level("level", 0.7)])
    texts = {text.text for text in ElementTree.fromstring(picture).iter() if text.text}
    assert {"title", "x", "y", "one & two", "more", "level", "0", "1", "2"} <= texts
    assert chart("title", ("x", "y"), lines, levels=[Level("level", 0.7)]) == picture


def test_a_chart_draws_means_and_whiskers() -> None:
    figure = draw_chart("title", ("x", "y"), [Line("a", [(0.0, [0.2, 0.4]), (2.0, [1.0])])])
    [container] = figure.axes[0].containers
    line, _, [whiskers] = container
    assert list(line.get_xdata()) == [0, 2]
    assert list(line.get_ydata()) == pytest.approx([0.3, 1])
    assert [tuple(y for _, y in ends) for ends in whiskers.get_segments()] == [
        pytest.approx((0.2, 0.4)),
        pytest.approx((1, 1)),
    ]


def test_bars_have_the_height_of_the_means() -> None:
    both = [Bars("a", [[0.5], [0.2, 0.4]]), Bars("b", [[1.0], [0.0]])]
    figure = draw_bars("title", "y", ["g", "h"], both, top=1)
    containers = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
    heights = [bar.get_height() for container in containers for bar in container]
    assert heights == pytest.approx([0.5, 0.3, 1, 0])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_its_settings(method: object) -> None:
    name = getattr(method, "name", "")
    tried = candidates(name)
    assert tried[0] == documented(name)
    assert len(set(tried)) == len(tried)
    for setting in tried:
        assert {key for key, _ in setting.parameters} <= setting.known
        required = {p.name for p in setting.entry.parameters if p.required}
        assert required <= {key for key, _ in setting.parameters}


@pytest.mark.parametrize(
    ("given", "said"),
    [(["magic"], "invalid choice: 'magic'"), (["dexperts", "--questions", "0"], "from 1")],
)
def test_what_the_front_refuses(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--examples", "0"], "whole numbers from 1"),
        (["--seeds", "0"], "whole numbers from 1"),
        (["--cases", "three"], "unknown case three; known are: two, manners, four"),
    ],
)
def test_what_is_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merged", *given])
    assert said in capsys.readouterr().err
