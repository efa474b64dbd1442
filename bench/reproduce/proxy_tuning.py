"""Proxy-tuning: how far small experts bring an untuned large model towards a tuned one.

`untuned + alpha*(expert - anti-expert)` for each task (Liu et al. 2024, "Tuning Language Models by
Proxy", arXiv:2401.08565, section 2; their alpha is 1). The gap closed is `(proxy - untuned) /
(ceiling - untuned)` per task and seed, where the ceiling is the large model tuned directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.measure import table
from bench.reproduce.exam import DEVELOPMENT, SEEDS, Exam, Sitting, apart, right
from bench.reproduce.plot import Bars, Line, bars, chart
from bench.reproduce.readme import Report
from bench.reproduce.seeds import cell, mean
from composer.formula import parse

QUESTIONS = 100
MAX_QUESTIONS = {"count": 30}  # the task has 199 held-out exercises, for six seeds
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
PUBLISHED = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A task and its models; the ceiling is the large model's adapter of the task.

    `untuned` is the model from which the ceiling was trained.
    """

    task: str
    untuned: str
    expert: str
    anti: str

    def proxy(self, alpha: float = PUBLISHED) -> str:
        factor = "" if alpha == 1 else f"{alpha:g}*"
        return f"{self.untuned} + {factor}({self.expert} - {self.anti})"


CASES = (
    Case("chat", "base", "small:school.chat", "small:school"),
    Case("sort", "base", "small:school.sort", "small:school"),
    Case("polite", "chat", "small:polite", "small:chat"),
    Case("rude", "chat", "small:rude", "small:chat"),
    Case("velan", "chat", "small:velan", "small:chat"),
)
"""Tasks in the mean."""

OUTSIDE = (
    Case("arithmetic", "base", "small:school.arithmetic", "small:school"),
    Case("count", "base", "small:school.count", "small:school"),
)
"""Tasks that failed on the development seed; reported, but not in the mean."""

MISMATCHED = (
    Case("chat", "base", "small:chat", "small"),
    Case("polite", "base", "small:polite", "small"),
    Case("polite", "base", "small:polite", "small:school"),
    Case("velan", "base", "small:velan", "small"),
)
"""Pairs whose anti-expert has not read what the untuned large model has read."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Shares of right answers, [seeds]."""

    case: Case
    untuned: Sequence[float]
    expert: Sequence[float]
    proxy: Sequence[float]
    ceiling: Sequence[float]

    def closed(self, reached: Sequence[float] | None = None) -> list[float]:
        """Return the share of the gap that the proxy, or `reached`, closes, [seeds]."""
        sides = zip(self.untuned, reached or self.proxy, self.ceiling, strict=True)
        return [(value - low) / (high - low) for low, value, high in sides]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that README.md reports on proxy-tuning."""

    gaps: Sequence[Gap]
    outside: Sequence[Gap]
    mismatched: Mapping[Case, Sequence[float]]  # shares of right answers, [seeds]
    by_alpha: Mapping[float, Sequence[float]]  # of all cases, on the development seed


def mean_closed(gaps: Sequence[Gap]) -> list[float]:
    """Return the unweighted, uncapped mean over tasks of the share of the gap closed, [seeds]."""
    return [mean(column) for column in zip(*(gap.closed() for gap in gaps), strict=True)]


def measure(exam: Exam, count: int = QUESTIONS) -> Results:
    """Measure all gaps, the mismatched pairs and the accuracies by alpha."""
    return Results(
        gaps_of(exam, CASES, count),
        gaps_of(exam, OUTSIDE, count),
        {case: accuracy(exam, case.task, case.proxy(), count) for case in MISMATCHED},
        {
            alpha: [
                accuracy(exam, case.task, case.proxy(alpha), count, (DEVELOPMENT,))[0]
                for case in CASES
            ]
            for alpha in ALPHAS
        },
    )


def gaps_of(exam: Exam, cases: Sequence[Case], count: int) -> list[Gap]:
    """Return all accuracies on these tasks, on the evaluation seeds."""
    return [
        Gap(
            case,
            *(
                accuracy(exam, case.task, formula, count)
                for formula in (case.untuned, case.expert, case.proxy(), case.task)
            ),
        )
        for case in cases
    ]


def accuracy(
    exam: Exam, task: str, formula: str, count: int, seeds: Sequence[int] = SEEDS
) -> list[float]:
    """Return the shares of right greedy answers, [seeds]."""
    number = min(count, MAX_QUESTIONS.get(task, count))
    sittings = [Sitting(task, parse(formula), apart(task, seed, number)) for seed in seeds]
    return [right(answers) for answers in exam.sit(sittings)]


def gap_table(gaps: Sequence[Gap], outside: Sequence[Gap] = ()) -> str:
    """Return a table with a row per task and their mean."""
    head = ["task", "untuned", "expert alone", "proxy-tuned", "ceiling", "gap closed, %"]
    head.append("by the expert alone, %")
    rows = [_cells(gap) for gap in gaps]
    alone = [mean(column) for column in zip(*(g.closed(g.expert) for g in gaps), strict=True)]
    rows.append(["**mean**", "", "", "", "", f"**{cell(mean_closed(gaps))}**", cell(alone)])
    rows += [[f"{gap.case.task}, not in the mean", *_cells(gap)[1:]] for gap in outside]
    return table(head, rows)


def report(results: Results) -> Report:
    """Return the section of README.md."""
    every_gap = [*results.gaps, *results.outside]
    others = [[f"`{case.proxy()}`", case.task, cell(v)] for case, v in results.mismatched.items()]
    tasks = [case.task for case in CASES]
    alphas = [
        [f"{alpha:g}", *(f"{100 * value:.0f}" for value in values), f"{100 * mean(values):.0f}"]
        for alpha, values in results.by_alpha.items()
    ]
    parts = [
        gap_table(results.gaps, results.outside),
        f"Mean of all {len(every_gap)} tasks that were tried: {cell(mean_closed(every_gap))}.",
        "Right answers of other pairs, %:",
        table(["formula", "task", "right"], others),
        "Right answers by alpha on the development seed, %:",
        table(["alpha", *tasks, "mean"], alphas),
    ]
    return Report("\n\n".join(parts), _pictures(results))


def _cells(gap: Gap) -> list[str]:
    shares = (gap.untuned, gap.expert, gap.proxy, gap.ceiling)
    closed = (gap.closed(), gap.closed(gap.expert))
    return [gap.case.task, *map(cell, shares), *map(cell, closed)]


def _pictures(results: Results) -> dict[str, str]:
    gaps = [*results.gaps, *results.outside]
    groups = [gap.case.task for gap in gaps]
    series = [
        Bars("untuned", [gap.untuned for gap in gaps]),
        Bars("small expert alone", [gap.expert for gap in gaps]),
        Bars("proxy-tuned, alpha 1", [gap.proxy for gap in gaps]),
        Bars("tuned directly", [gap.ceiling for gap in gaps]),
    ]
    by_alpha = [
        Line(case.task, [(alpha, [values[k]]) for alpha, values in results.by_alpha.items()])
        for k, case in enumerate(CASES)
    ]
    return {
        "proxy_tuning": bars("Proxy-tuning, five seeds", "right answers", groups, series, top=1),
        "proxy_tuning_alpha": chart(
            "Proxy-tuning, development seed", ("alpha", "right answers"), by_alpha, top=1
        ),
    }
