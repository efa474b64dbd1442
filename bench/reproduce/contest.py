"""Contestants: every way to have all skills of a case at once, and its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from adapters.weight_space.merge import METHODS, Method
from bench.reproduce.cases import Case
from bench.reproduce.exam import TRAINING, Answer, Exam, Sitting, exercises, right
from bench.reproduce.settings import SCALES, Setting, candidates, documented
from composer.fields import BASE
from composer.formula import Sum, parse

Solver: TypeAlias = Callable[[Exam, str, Sum, int], Sum]
"""(exam, task, the case's formula for the task, seed) -> the sum of logits that answers."""


class Kind(Enum):
    """Cost of a contestant at decoding time."""

    MODEL = "one existing model"
    MERGED = "one adapter, merged beforehand"
    DECODED = "a row for every adapter"


@dataclass(frozen=True, slots=True)
class Way:
    """One setting of a contestant."""

    label: str
    solve: Solver


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of the table.

    The best of its ways on training exercises is evaluated; without a way it does not take part in
    the case.
    """

    name: str
    kind: Kind
    ways: Callable[[Case], Sequence[Way]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares of right answers by task, [seeds]; the first answer to each task; the chosen way, if
    there were several."""

    shares: Mapping[str, Sequence[float]]
    samples: Sequence[Answer]
    chosen: str | None

    @property
    def means(self) -> list[float]:
        """Means over the tasks, [seeds]."""
        return [sum(column) / len(column) for column in zip(*self.shares.values(), strict=True)]


def contestants(methods: Sequence[Method] = METHODS, *, choosing: bool = True) -> list[Contestant]:
    """Return the rows of the table; `choosing` adds those with chosen parameters."""
    rows = [
        Contestant("base", Kind.MODEL, lambda case: [Way(BASE, lambda *_: ((BASE, 1.0),))]),
        Contestant("each task's own adapter", Kind.MODEL, lambda case: [Way("own", _own)]),
    ]
    if choosing:
        rows.insert(1, Contestant("one adapter for all tasks, chosen", Kind.MODEL, _singles))
    for method in methods:
        tried = candidates(method.name)
        rows.append(_merged(f"`{method.name}`", [documented(method.name)]))
        if choosing and len(tried) > 1:
            rows.append(_merged(f"`{method.name}`, chosen", tried))
    rows += [
        Contestant("sum of logits", Kind.DECODED, lambda case: [Way("", lambda _, t, f, s: f)]),
        _differences("sum of differences", SCALES[:1]),
    ]
    if choosing:
        rows.append(_differences("sum of differences, chosen", SCALES))
    return rows


def measure(
    exam: Exam,
    contestant: Contestant,
    case: Case,
    seeds: Sequence[int],
    examples: int,
    training: int,
) -> Measured | None:
    """Measure a contestant on `examples` held-out exercises per task and seed.

    Chooses between several ways with `training` exercises per task. Returns None if the contestant
    does not take part in the case.
    """
    ways = contestant.ways(case)
    if not ways:
        return None
    way = ways[0]
    if len(ways) > 1:
        means = [_mean(exam, candidate, case, training) for candidate in ways]
        way = ways[means.index(max(means))]
    sittings = [
        _sitting(exam, way, case, task, seed, examples) for task in case.formulas for seed in seeds
    ]
    answers = exam.sit(sittings)
    shares = list(map(right, answers))
    by_task = {
        task: shares[i * len(seeds) : (i + 1) * len(seeds)] for i, task in enumerate(case.formulas)
    }
    samples = [first for first, *_ in answers[:: len(seeds)]]
    return Measured(by_task, samples, way.label if len(ways) > 1 else None)


def _mean(exam: Exam, way: Way, case: Case, count: int) -> float:
    answers = exam.sit([_sitting(exam, way, case, task, TRAINING, count) for task in case.formulas])
    return sum(map(right, answers)) / len(answers)


def _sitting(exam: Exam, way: Way, case: Case, task: str, seed: int, count: int) -> Sitting:
    solver = way.solve(exam, task, parse(case.formulas[task]), seed)
    return Sitting(task, solver, exercises(task, seed, count))


def _own(exam: Exam, task: str, formula: Sum, seed: int) -> Sum:
    return ((task, 1.0),)


def _singles(case: Case) -> list[Way]:
    names = dict.fromkeys(name for text in case.formulas.values() for name, _ in parse(text))
    return [Way(f"`{name}`", _single(name)) for name in names]


def _single(name: str) -> Solver:
    return lambda *_: ((name, 1.0),)


def _merged(name: str, settings: Sequence[Setting]) -> Contestant:
    def ways(case: Case) -> list[Way]:
        if not (settings[0].entry.weighted or case.unweighted):
            return []
        return [Way(str(setting), _merging(setting)) for setting in settings]

    return Contestant(name, Kind.MERGED, ways)


def _merging(setting: Setting) -> Solver:
    return lambda exam, task, formula, seed: ((exam.merged(setting, formula, seed), 1.0),)


def _differences(name: str, scales: Sequence[float]) -> Contestant:
    """Return base + scale * sum_k w_k (l_k - base), the sum of deltas to first order."""

    def solver(scale: float) -> Solver:
        def solve(exam: Exam, task: str, formula: Sum, seed: int) -> Sum:
            rest = 1 - scale * sum(weight for _, weight in formula)
            scaled = tuple((name, scale * weight) for name, weight in formula)
            return ((BASE, rest), *scaled) if abs(rest) > 1e-9 else scaled

        return solve

    return Contestant(
        name,
        Kind.DECODED,
        lambda case: [Way(f"scale {scale:g}", solver(scale)) for scale in scales],
    )
