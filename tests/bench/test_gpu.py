"""The pieces of the GPU check that need no engine: time, arithmetic, verdicts, and the report."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.gpu.agreement.noise import difference
from bench.gpu.budget import Budget, share
from bench.gpu.report import aims, failed, render
from bench.gpu.speed.cells import Cell, Run, percentile, row
from bench.gpu.speed.kinds import BASE_ALONE, COMPOSED
from bench.gpu.speed.roofline import Reads, bound_s
from bench.gpu.speed.shapes import LLAMA_1B, LLAMA_8B


def test_nothing_starts_after_the_budget_is_spent() -> None:
    now = [0.0]
    budget = Budget(10.0, clock=lambda: now[0])
    done = []
    for cell in budget.take(["one", "two", "three", "four"]):
        done.append(cell)
        now[0] += 6.0
    assert done == ["one", "two"]
    assert budget.left_out == ["three", "four"]
    assert budget.left_s == -2.0
    assert list(budget.take(["five", "six"])) == ["five"]  # loading must not have been in vain
    assert budget.left_out == ["three", "four", "six"]


def test_a_part_leaves_its_seconds_to_the_next() -> None:
    assert share(90.0, [1.0, 2.0]) == 30.0
    assert share(90.0, [2.0]) == 90.0
    assert share(-5.0, [2.0, 1.0]) == 0.0


def test_sizes_are_those_of_the_published_models() -> None:
    embedding = 128_256 * 4096
    assert LLAMA_8B.weights() + embedding == 8_030_261_248
    assert LLAMA_1B.weights() == 1_235_814_400  # its output layer is its embedding
    assert LLAMA_8B.adapter_numbers() == 41_943_040
    assert LLAMA_8B.cached_numbers() == 65_536  # 128 KiB for a token


@pytest.mark.parametrize(("context", "ratio"), [(1024, 1.03), (8192, 1.14), (32768, 1.45)])
def test_three_rows_read_little_more_than_one(context: int, ratio: float) -> None:
    one, three = Reads(LLAMA_8B, 1, 0, context), Reads(LLAMA_8B, 3, 2, context)
    assert bound_s([three], 4e12) / bound_s([one], 4e12) == pytest.approx(ratio, abs=0.005)


def test_models_are_read_one_after_the_other() -> None:
    base, small = Reads(LLAMA_8B, 1, 0, 100), Reads(LLAMA_1B, 2, 1, 100)
    assert bound_s([base, small], 1e12) == bound_s([base], 1e12) + bound_s([small], 1e12)


def test_a_row_of_the_speed_table() -> None:
    runs = [Run(1.0, 0.1, [0.01] * 9), Run(1.2, 0.2, [0.01] * 8 + [0.09])]
    plain = [Run(0.5, 0.1, []), Run(1.0, 0.1, [])]
    cells = row(COMPOSED, Cell(4, 8, 10), runs, 0.002, plain)
    assert cells["token_ms"] == pytest.approx(10)
    assert cells["token_p99_ms"] == pytest.approx(90)
    assert cells["of_bound"] == pytest.approx(5)
    assert cells["tokens_per_s"] == pytest.approx(40 / 1.1)
    assert cells["to_plain_rows"] == pytest.approx((2.0 + 1.2) / 2)  # of the rounds' ratios


@pytest.mark.parametrize(("count", "value"), [(1, 0), (100, 98), (101, 99), (1000, 989)])
def test_percentile(count: int, value: float) -> None:
    assert percentile([float(n) for n in range(count)], 0.99) == value


def _report(*, cuda: bool, composed: float = 10.9, ratio: float = 1.02, **part: Any) -> Any:
    cell = {"requests": 1, "prompt": 8, "answer": 512, "to_plain_rows": None}
    rows = [
        {"kind": BASE_ALONE, **cell, "token_ms": 10.0},
        {"kind": COMPOSED, **cell, "token_ms": composed, "to_plain_rows": ratio},
        {"kind": COMPOSED, **cell, "answer": 8, "token_ms": 99.0, "to_plain_rows": 1.0},
    ]
    section = {"heading": "Speed", "about": "", "rows": rows, "left_out": ["64 x 8/8", "a, b"]}
    whole = {"name": "composed", "runner": "v2", "seconds": 3.0, "error": None}
    return {
        "title": "Check",
        "date": "2026-01-01",
        "commit": "abc",
        "command": "python -m bench.gpu",
        "minutes": 1.0,
        "cuda": cuda,
        "parts": [whole | {"sections": [section]} | part],
    }


@pytest.mark.parametrize(
    ("composed", "ratio", "verdicts"),
    [(10.9, 1.02, ["ok", "ok"]), (11.1, 1.02, ["short", "ok"]), (10.9, 1.04, ["ok", "short"])],
)
def test_aims_are_judged_on_a_gpu(composed: float, ratio: float, verdicts: list[str]) -> None:
    report = _report(cuda=True, composed=composed, ratio=ratio)
    assert [aim["verdict"] for aim in aims(report)] == verdicts
    assert failed(report) == ("short" in verdicts)
    rehearsed = _report(cuda=False, composed=composed, ratio=ratio)
    assert {aim["verdict"] for aim in aims(rehearsed)} == {"rehearsed, not judged"}
    assert not failed(rehearsed)


def test_what_is_missing_is_said() -> None:
    report = _report(cuda=True, error="status 1: RuntimeError: no kernel", sections=[])
    assert {aim["verdict"] for aim in aims(report)} == {"not measured"}
    assert failed(report)
    assert "**Could not run**: status 1: RuntimeError: no kernel" in render(report)
    assert "Left out, as the time was spent: 64 x 8/8; a, b." in render(_report(cuda=True))
    wrong = _report(cuda=False)
    wrong["parts"][0]["sections"][0]["passed"] = False
    assert failed(wrong)
    assert "### Speed: **failed**" in render(wrong)
    wrong["parts"][0]["sections"][0]["passed"] = True
    assert "### Speed: passed as far as checked" in render(wrong)


def test_a_difference_is_judged_by_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = (torch.randn(200, 50, generator=generator) * 3).log_softmax(-1)

    def off(by: float) -> torch.Tensor:
        return (exact + by * torch.randn(200, 50, generator=generator)).log_softmax(-1)

    noise = difference([(off(0.02), exact)])
    assert noise.mean == pytest.approx(0.018, rel=0.1)
    assert difference([(off(0.02), exact)]).within(noise, noise)
    assert not difference([(off(0.06), exact)]).within(noise, noise)
    late = exact.clone()
    late[1:2] = exact[:1]  # one token's distribution comes a step late
    assert not difference([(late, exact)]).within(noise, noise)


def test_tokens_at_the_edge_of_a_filter_are_counted_and_not_compared() -> None:
    exact = (torch.arange(30.0) / 3).log_softmax(-1).repeat(100, 1)
    kept = exact.masked_fill(torch.arange(30) < 20, -torch.inf).log_softmax(-1)
    moved = exact.masked_fill(torch.arange(30) < 21, -2e4).log_softmax(-1)
    noise = difference([(kept, kept)])
    assert (noise.worst, noise.edges) == (0.0, 0)
    one = kept.clone()
    one[0] = moved[0]
    assert difference([(one, kept)]).within(noise, noise)
    shifted = difference([(moved, kept)])
    assert (shifted.worst < 1e-6, shifted.edges) == (True, 100)
    assert not shifted.within(noise, noise)
