"""DExperts: small experts for and against a manner steer the large chat model away from it.

`chat + alpha*(expert - anti-expert)`, sampled at temperature 1, with and without the cut to the
base's top-p 0.9 that precedes the sum in the paper (Liu et al. 2021, "DExperts: Decoding-Time
Controlled Text Generation with Experts and Anti-Experts", arXiv:2105.03023, section 2). Fluency is
the perplexity of the answers under `chat` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

import zoo
from bench.measure import table
from bench.reproduce.exam import SEEDS, Answer, Exam, Sitting, apart, share
from bench.reproduce.judge import is_true, manner, sounds_rude
from bench.reproduce.plot import Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.seeds import cell, figure
from composer.filters import FilterKind, NamedFilter
from composer.formula import parse
from zoo.evaluate import load
from zoo.tasks import Example

QUESTIONS = 100
ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0)
TOP_P = (NamedFilter(FilterKind.TOP_P, "chat", 0.9),)


@dataclass(frozen=True, slots=True)
class Variant:
    """A pair of experts, with filters on the tokens."""

    name: str
    difference: str
    filters: Sequence[NamedFilter] = ()

    def formula(self, alpha: float) -> str:
        return f"chat + {alpha:g}*({self.difference})" if alpha else "chat"


VARIANTS = (
    Variant("polite - rude", "small:polite - small:rude"),
    Variant("polite - rude, top-p 0.9", "small:polite - small:rude", TOP_P),
    Variant("chat - rude", "small:chat - small:rude"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """Rates of answers and perplexity at one alpha, [seeds]."""

    rude: Sequence[float]
    polite: Sequence[float]
    true: Sequence[float]
    perplexity: Sequence[float]


Results = Mapping[str, Mapping[float, Point]]
"""Name of the variant -> alpha -> measurement."""


class Fluency:
    """Perplexity under the large chat model."""

    def __init__(self, exam: Exam) -> None:
        model, _ = load(zoo.BASE)
        self._model = PeftModel.from_pretrained(model, str(zoo.ADAPTERS["chat"])).eval()
        self._exam = exam

    @torch.inference_mode()
    def perplexity(self, examples: Sequence[Example], answers: Sequence[Answer]) -> float:
        """Return `exp` of the mean negative log-likelihood over all tokens of all answers."""
        nats, count = 0.0, 0
        for example, answer in zip(examples, answers, strict=True):
            prompt = self._exam.prompt(example)
            ids = torch.tensor([[*prompt, *answer.tokens]])
            logits = self._model(input_ids=ids).logits[0, len(prompt) - 1 : -1]  # [T, V] f32
            tokens = ids[0, len(prompt) :, None]  # [T, 1]
            nats -= float(logits.log_softmax(-1).gather(1, tokens).sum())
            count += len(answer.tokens)
        return math.exp(nats / count)


def measure(exam: Exam, count: int = QUESTIONS) -> Results:
    """Measure everything that README.md reports on DExperts."""
    fluency = Fluency(exam)
    return {
        variant.name: {alpha: _point(exam, fluency, variant, alpha, count) for alpha in ALPHAS}
        for variant in VARIANTS
    }


def _point(exam: Exam, fluency: Fluency, variant: Variant, alpha: float, count: int) -> Point:
    questions = [apart("chat", seed, count) for seed in SEEDS]
    formula = parse(variant.formula(alpha))
    by_seed = exam.sit(
        Sitting("chat", formula, examples, variant.filters, temperature=1.0, seed=seed)
        for seed, examples in zip(SEEDS, questions, strict=True)
    )
    pairs = list(zip(questions, by_seed, strict=True))
    return Point(
        [share(map(sounds_rude, answers)) for answers in by_seed],
        [share(manner(answer) == "polite" for answer in answers) for answers in by_seed],
        [share(map(is_true, *pair)) for pair in pairs],
        [fluency.perplexity(*pair) for pair in pairs],
    )


def report(results: Results) -> Report:
    """Return the section of README.md."""
    head = ["experts", "alpha", "rude, %", "polite, %", "true, %", "perplexity under `chat`"]
    rows = [
        [name, f"{alpha:g}", *map(cell, (p.rude, p.polite, p.true)), figure(p.perplexity, 2)]
        for name, points in results.items()
        for alpha, p in points.items()
    ]
    title = "chat + alpha*(expert - anti-expert), both small"
    rude = [
        Line(name, [(a, p.rude) for a, p in points.items()]) for name, points in results.items()
    ]
    fluent = [
        Line(name, [(a, p.perplexity) for a, p in points.items()])
        for name, points in results.items()
    ]
    pictures = {
        "dexperts": chart(title, ("alpha", "share of rude answers"), rude, top=1),
        "dexperts_perplexity": chart(title, ("alpha", "perplexity under chat"), fluent),
    }
    return Report(table(head, rows), pictures)
