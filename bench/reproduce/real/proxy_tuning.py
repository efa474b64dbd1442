"""Proxy-tuning between adapters of one model: what a task's adapter adds to other fine-tunes.

`untuned + alpha*(expert - base)` (Liu et al. 2024, arXiv:2401.08565, section 2). No smaller model
with SmolLM2's vocabulary can be had as a package, so expert and anti-expert are of the same size as
the model that they steer. With the base as the untuned model, alpha 1 is the expert by arithmetic;
other alphas weigh what it has learned. With another adapter as the untuned model, the expert steers
a model that never learned its task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.measure import table
from bench.reproduce.plot import Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.real.exercises import TASKS, Task, shares
from bench.reproduce.real.model import RealModel
from bench.reproduce.seeds import cell
from composer.fields import BASE
from composer.formula import parse

ALPHAS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)  # at 1 it is the expert
UNTUNED = ("kjv", "devil")


@dataclass(frozen=True, slots=True)
class Results:
    """Shares of right answers by task, [seeds]."""

    base: Mapping[str, Sequence[float]]
    expert: Mapping[str, Sequence[float]]
    by_alpha: Mapping[str, Mapping[float, Sequence[float]]]
    untuned: Mapping[tuple[str, str], Sequence[float]]  # (task, untuned model)
    proxy: Mapping[tuple[str, str], Sequence[float]]


def proxy(untuned: str, task: Task, alpha: float) -> str:
    """Return the formula of proxy-tuning."""
    return f"{untuned} + {alpha:g}*({task.name} - {BASE})"


def measure(model: RealModel) -> Results:
    """Measure everything that README.md reports on proxy-tuning."""
    pairs = [(task, untuned) for task in TASKS for untuned in UNTUNED]
    return Results(
        {task.name: shares(model, task, parse(BASE)) for task in TASKS},
        {task.name: shares(model, task, parse(task.name)) for task in TASKS},
        {
            task.name: {
                alpha: shares(model, task, parse(proxy(BASE, task, alpha))) for alpha in ALPHAS
            }
            for task in TASKS
        },
        {(task.name, untuned): shares(model, task, parse(untuned)) for task, untuned in pairs},
        {
            (task.name, untuned): shares(model, task, parse(proxy(untuned, task, 1)))
            for task, untuned in pairs
        },
    )


def report(results: Results) -> Report:
    """Return the section of README.md."""
    rows = [
        [task, f"`{untuned}`", cell(before), cell(after), cell(results.expert[task])]
        for (task, untuned), before in results.untuned.items()
        for after in [results.proxy[task, untuned]]
    ]
    by_alpha = {
        task: {0.0: results.base[task], 1.0: results.expert[task], **points}
        for task, points in results.by_alpha.items()
    }
    alphas = sorted(next(iter(by_alpha.values())))
    swept = [
        [f"{alpha:g}", *(cell(points[alpha]) for points in by_alpha.values())] for alpha in alphas
    ]
    parts = [
        table(["task", "untuned model", "untuned", "proxy-tuned, alpha 1", "expert alone"], rows),
        "`base + alpha*(expert - base)`; 0 is the base, 1 the expert alone:",
        table(["alpha", *by_alpha], swept),
    ]
    lines = [
        Line(task, [(alpha, points[alpha]) for alpha in alphas])
        for task, points in by_alpha.items()
    ]
    title = "base + alpha*(expert - base), five seeds"
    picture = chart(title, ("alpha", "right answers"), lines, top=1.05)
    return Report("\n\n".join(parts), {"proxy_tuning": picture})
