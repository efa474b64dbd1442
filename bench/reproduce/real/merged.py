"""Merged against decoded: the same pairs of adapters in weight space and as sums of logits.

Two skills: one model that extracts JSON and does arithmetic. Two manners: the base pushed from
`negative` towards `positive`, `base + (positive - negative)`, judged by VADER and by perplexity
under the base.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeSpec, merge
from bench.measure import table
from bench.reproduce.readme import Report
from bench.reproduce.real.dexperts import sample
from bench.reproduce.real.exercises import TASKS, shares
from bench.reproduce.real.judges import Fluency, vader
from bench.reproduce.real.model import RealModel
from bench.reproduce.seeds import cell, figure, mean
from composer.engine_plan import LoadedAdapter
from composer.fields import BASE
from composer.formula import Sum, parse
from experts import ADAPTERS

RANK = 16  # at least that of the exact sum of two adapters, which is 8

Parameters = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """A method of `adapters.weight_space.merge`; `scale` multiplies both weights."""

    method: str
    scale: float = 1.0
    parameters: Parameters = ()

    def __str__(self) -> str:
        values = [f"{name} {value:g}" for name, value in self.parameters]
        return ", ".join([f"`{self.method}`", *[f"scale {self.scale:g}"], *values])


MERGES = (
    Merge("sum"),
    Merge("sum", 0.7),
    Merge("sum", 0.5),
    Merge("ties", 1.0, (("density", 0.2),)),
    Merge("ties", 1.0, (("density", 0.5),)),
    Merge("dare_linear", 1.0, (("drop", 0.5),)),
)


@dataclass(frozen=True, slots=True)
class Way:
    """How a pair answers: right answers by task, [seeds]; sentiment and perplexity, [seeds]."""

    skills: Mapping[str, Sequence[float]]
    sentiment: Sequence[float]
    perplexity: Sequence[float]


Results = Mapping[str, Way]


def measure(model: RealModel) -> Results:
    """Measure all merges, and the same weights decoded together."""
    fluency = Fluency()

    def way(skills: Mapping[str, Sum], manner: Sum) -> Way:
        texts = sample(model, manner)
        return Way(
            {task.name: shares(model, task, skills[task.name]) for task in TASKS},
            [mean(vader(seed)) for seed in texts],
            [fluency.perplexity(seed) for seed in texts],
        )

    def of_all(skills: Sum, manner: Sum) -> Way:
        return way({task.name: skills for task in TASKS}, manner)

    ways = {
        "base": of_all(parse(BASE), parse(BASE)),
        "each task's own adapter, `positive`": way(
            {task.name: parse(task.name) for task in TASKS}, parse("positive")
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, setting in enumerate(MERGES):
            names = [
                _loaded(model, setting, weights, Path(folder), 2 * number + k)
                for k, weights in enumerate((SKILLS, MANNERS))
            ]
            ways[str(setting)] = of_all(*(((name, 1.0),) for name in names))
    for scale in (1.0, 0.7, 0.5):
        sums = [_differences(weights, scale) for weights in (SKILLS, MANNERS)]
        ways[f"sum of differences, scale {scale:g}"] = of_all(*sums)
    return ways


SKILLS = (("json", 1.0), ("arithmetic", 1.0))
MANNERS = (("positive", 1.0), ("negative", -1.0))


def _differences(weights: Sequence[tuple[str, float]], scale: float) -> Sum:
    """Return `base + scale * sum_k w_k (l_k - base)`, to first order the merged model's logits."""
    rest = 1 - scale * sum(weight for _, weight in weights)
    scaled = tuple((name, scale * weight) for name, weight in weights)
    return ((BASE, rest), *scaled) if rest else scaled


def _loaded(
    model: RealModel,
    setting: Merge,
    weights: Sequence[tuple[str, float]],
    folder: Path,
    number: int,
) -> str:
    """Merge the adapters, add the result to the engine and return its name."""
    name = f"merged{number}"
    value: dict[str, object] = {
        "method": setting.method,
        "adapters": [
            {"adapter": adapter, "weight": setting.scale * weight} for adapter, weight in weights
        ],
        **dict(setting.parameters),
    }
    if setting.method != "sum":
        value["rank"] = RANK
    if setting.method.startswith("dare"):
        value["seed"] = 1
    path = folder / name
    path.mkdir()
    merge(MergeSpec.from_json(value), [AdapterReader(ADAPTERS[a]) for a, _ in weights], path)
    model.engine.adapters[name] = LoadedAdapter(name, len(ADAPTERS) + 1 + number, str(path))
    return name


def report(results: Results) -> Report:
    """Return the section of README.md."""
    names = [task.name for task in TASKS]
    rows = [
        [
            label,
            *(cell(way.skills[name]) for name in names),
            cell([mean(seed) for seed in zip(*way.skills.values(), strict=True)]),
            figure(way.sentiment, 2),
            figure(way.perplexity, 1),
        ]
        for label, way in results.items()
    ]
    head = ["", *(f"{n}, %" for n in names), "mean, %", "VADER of the manners", "their perplexity"]
    return Report(table(head, rows))
