"""Value-augmented sampling: reward by beta, compared with best-of-N.

The recipe `value_augmented`: `chat + beta*value` on the 20 tokens that `chat` finds likeliest,
sampled at temperature 1 (Han et al. 2024, "Value Augmented Sampling for Language Model Alignment
and Personalization", arXiv:2405.06639, section 4). As in the authors' code, the values are centred
and the other tokens keep the logits of `chat`; `cut` drops the others instead. The reward is 1 for
a polite answer, -1 for a rude one and 0 for a plain one; `value`, which is `small:value` divided by
its unit, was trained on answers of `chat` to training questions. Best of N samples N answers of
`chat` and keeps the one with the highest true reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.measure import cpu_seconds, table
from bench.reproduce.exam import SEEDS, Answer, Exam, Sitting, apart, share
from bench.reproduce.judge import is_true
from bench.reproduce.plot import Level, Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.seeds import cell, figure, mean
from composer.recipes.value_augmented import Value, ValueAugmented, build
from zoo.tasks import Example
from zoo.values import UNIT, reward

QUESTIONS = 60
BETAS = (0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
NS = (1, 2, 4, 8, 16)
TIMED = 4.0  # beta whose cost is measured; all of them cost the same
Pairs = Sequence[tuple[Example, Answer]]


@dataclass(frozen=True, slots=True)
class Point:
    """Mean reward and share of true answers, [seeds]."""

    reward: Sequence[float]
    true: Sequence[float]


@dataclass(frozen=True, slots=True)
class Results:
    """Measurements by beta and by N."""

    by_beta: Mapping[float, Point]
    cut: Mapping[float, Point]  # by beta, of those that are not 0
    by_n: Mapping[int, Point]
    cost: float  # of a token, relative to `chat` alone


def measure(exam: Exam, count: int = QUESTIONS) -> Results:
    """Measure everything that README.md reports on value-augmented sampling."""
    by_beta = {beta: _point([_pairs(exam, beta, s, count) for s in SEEDS]) for beta in BETAS}
    cut = {
        beta: _point([_pairs(exam, beta, s, count, cut=True) for s in SEEDS])
        for beta in BETAS
        if beta
    }
    drawn = [_drawn(exam, seed, count) for seed in SEEDS]
    by_n = {n: _point([[_best(pairs[:n]) for pairs in seed] for seed in drawn]) for n in NS}
    return Results(by_beta, cut, by_n, _cost(exam, TIMED, count) / _cost(exam, 0.0, count))


def _sitting(beta: float, examples: Sequence[Example], seed: int, *, cut: bool = False) -> Sitting:
    if not beta:
        return Sitting("chat", (("chat", 1.0),), examples, temperature=1.0, seed=seed)
    value = Value(model="small:value", beta=beta / UNIT)
    fields = ValueAugmented(recipe="value_augmented", base="chat", values=[value], cut=cut)
    terms, filters = build(fields)
    solver = tuple((member.model, weight) for member, weight in terms)
    return Sitting("chat", solver, examples, filters, temperature=1.0, seed=seed)


def _pairs(exam: Exam, beta: float, seed: int, count: int, *, cut: bool = False) -> Pairs:
    questions = apart("chat", seed, count)
    [answers] = exam.sit([_sitting(beta, questions, seed, cut=cut)])
    return list(zip(questions, answers, strict=True))


def _drawn(exam: Exam, seed: int, count: int) -> list[Pairs]:
    """Return `max(NS)` answers of `chat` to each question."""
    repeated = [example for example in apart("chat", seed, count) for _ in range(max(NS))]
    [answers] = exam.sit([_sitting(0.0, repeated, 100 + seed)])
    pairs = list(zip(repeated, answers, strict=True))
    return [pairs[i : i + max(NS)] for i in range(0, len(pairs), max(NS))]


def _reward(pair: tuple[Example, Answer]) -> float:
    return reward(pair[1].text, pair[1].ended)


def _best(pairs: Pairs) -> tuple[Example, Answer]:
    return max(pairs, key=_reward)


def _point(seeds: Sequence[Pairs]) -> Point:
    return Point(
        [mean([_reward(pair) for pair in pairs]) for pairs in seeds],
        [share(is_true(*pair) for pair in pairs) for pairs in seeds],
    )


def _cost(exam: Exam, beta: float, count: int) -> float:
    """Return CPU seconds per token of an answer, the best of three runs."""
    questions = apart("chat", SEEDS[0], count)
    costs = []
    for _ in range(3):
        exam.forget_prefixes()
        answers: list[Answer] = []
        seconds = cpu_seconds(partial(_sit_into, answers, exam, _sitting(beta, questions, 7)))
        costs.append(seconds / sum(len(answer.tokens) for answer in answers))
    return min(costs)


def _sit_into(answers: list[Answer], exam: Exam, sitting: Sitting) -> None:
    answers += exam.sit([sitting])[0]


def report(results: Results) -> Report:
    """Return the section of README.md."""
    rows = [
        [f"beta {beta:g}{how}", figure(point.reward, 2), cell(point.true), f"{results.cost:.1f}"]
        for how, points in (("", results.by_beta), (", cut", results.cut))
        for beta, point in points.items()
        if beta
    ]
    for n, point in results.by_n.items():
        name = f"best of {n}" if n > 1 else "`chat` alone"
        rows.append([name, figure(point.reward, 2), cell(point.true), str(n)])
    head = ["sampling", "reward", "true, %", "cost, `chat` alone = 1"]
    lines = [
        Line(name, [(beta, point.reward) for beta, point in points.items()])
        for name, points in (("value-augmented, five seeds", results.by_beta), ("cut", results.cut))
    ]
    levels = [Level(f"best of {n}", mean(p.reward)) for n, p in results.by_n.items() if n > 1]
    title = "chat + beta*value, on the 20 likeliest tokens of chat"
    picture = chart(title, ("beta", "mean reward"), lines, top=1.05, levels=levels)
    return Report(table(head, rows), {"value_augmented": picture})
