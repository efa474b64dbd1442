"""DExperts: adapters of praising and of damning sentences about films steer SmolLM2.

`base + alpha*(positive - negative)` within the base's top-p 0.9, sampled at temperature 1 (Liu et
al. 2021, arXiv:2105.03023, section 2). As theirs, the prompts are neutral openings: those that the
base itself continues about as often well as badly. Texts are judged with their opening.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.inprocess import Job
from bench.measure import table
from bench.reproduce.plot import Level, Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.real.judges import Classifier, Fluency, Text, vader
from bench.reproduce.real.model import DOCUMENT, SEEDS, RealModel
from bench.reproduce.seeds import figure, mean
from composer.fields import BASE
from composer.filters import FilterKind, NamedFilter
from composer.formula import Sum, parse

ALPHAS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
DRAWS = 3  # texts of each opening and seed
TOKENS = 28
SAMPLES = 2  # texts that are shown
FILTERS = (NamedFilter(FilterKind.TOP_P, BASE, 0.9),)
EXPERTS = ("positive", "negative")

OPENINGS: tuple[str, ...] = (
    "The movie feels",
    "This film was",
    "This film seems",
    "The story has",
    "The story will leave you",
    "The acting seems",
    "The acting will leave you",
    "The plot was",
    "The plot seems",
    "The plot has",
    "The ending is",
    "The ending seems",
)
"""Of 42 candidates, those whose texts by the base had a mean VADER score nearest to 0, over ten
development seeds (101 to 110)."""


@dataclass(frozen=True, slots=True)
class Point:
    """Measurements of one formula, [seeds]."""

    vader: Sequence[float]
    """Means of VADER's compound score, from -1 to 1."""
    error: float
    """Standard error of its mean over all texts."""
    positive: Sequence[float]
    """Shares of texts that the classifier calls positive."""
    perplexity: Sequence[float]
    """Under the base alone."""
    samples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Measurements by alpha and of each expert alone, and the accuracies of the judges."""

    by_alpha: Mapping[float, Point]
    alone: Mapping[str, Point]
    accuracy: float
    vader_accuracy: float


def sample(
    model: RealModel,
    formula: Sum,
    filters: Sequence[NamedFilter] = (),
    seeds: Sequence[int] = SEEDS,
) -> list[list[Text]]:
    """Return texts of the formula, `[seeds][draws * openings]`; equal seeds draw equal noise."""
    prompts = [(model.document(opening), opening) for opening in OPENINGS] * DRAWS
    jobs: list[Job] = [
        model.job(
            formula,
            ids,
            filters=filters,
            temperature=1.0,
            seed=seed * 100_000 + number,
            max_tokens=TOKENS,
            stop_token_ids=[DOCUMENT],
        )
        for seed in seeds
        for number, (ids, _) in enumerate(prompts)
    ]
    texts = [
        Text(ids, tokens, opening + model.tokenizer.decode(tokens))
        for (ids, opening), answer in zip(prompts * len(seeds), model.answers(jobs), strict=True)
        for tokens in [[token for token in answer if token != DOCUMENT]]
    ]
    count = len(prompts)
    return [texts[i * count : (i + 1) * count] for i in range(len(seeds))]


def formula_at(alpha: float) -> Sum:
    """Return `base + alpha*(positive - negative)`."""
    return parse(f"{BASE} + {alpha:g}*({EXPERTS[0]} - {EXPERTS[1]})") if alpha else parse(BASE)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean."""
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))


def measure(model: RealModel) -> Results:
    """Measure everything that README.md reports on DExperts."""
    fluency, classifier = Fluency(), Classifier()

    def point(formula: Sum, filters: Sequence[NamedFilter]) -> Point:
        by_seed = sample(model, formula, filters)
        scores = [vader(texts) for texts in by_seed]
        return Point(
            list(map(mean, scores)),
            standard_error([score for seed in scores for score in seed]),
            [classifier.positive(texts) for texts in by_seed],
            [fluency.perplexity(texts) for texts in by_seed],
            tuple(text.words for text in by_seed[0][:SAMPLES]),
        )

    return Results(
        {alpha: point(formula_at(alpha), FILTERS) for alpha in ALPHAS},
        {name: point(parse(name), ()) for name in EXPERTS},
        classifier.accuracy,
        classifier.vader_accuracy,
    )


def unclear_steps(points: Mapping[float, Point]) -> list[tuple[float, float]]:
    """Return neighbouring alphas whose VADER means differ by less than their standard error."""
    return [
        (a, b)
        for a, b in pairwise(sorted(points))
        if mean(points[b].vader) - mean(points[a].vader)
        < math.hypot(points[a].error, points[b].error)
    ]


def slope(means: Mapping[float, float]) -> float:
    """Return the least-squares slope of means by alpha."""
    middle, level = mean(list(means)), mean(list(means.values()))
    covariance = sum((alpha - middle) * (value - level) for alpha, value in means.items())
    return covariance / sum((alpha - middle) ** 2 for alpha in means)


def report(results: Results) -> Report:
    """Return the section of README.md."""
    by_alpha = results.by_alpha
    points = {f"alpha {alpha:g}": point for alpha, point in by_alpha.items()}
    points |= {f"`{name}` alone, no filter": point for name, point in results.alone.items()}
    rows = [
        [
            name,
            f"{mean(p.vader):.2f} ±{p.error:.2f}",
            figure([100 * value for value in p.positive], 0),
            figure(p.perplexity, 1),
        ]
        for name, p in points.items()
    ]
    head = ["", "VADER, ± standard error", "classifier: positive, %", "perplexity under the base"]
    unclear = ", ".join(f"{a:g} to {b:g}" for a, b in unclear_steps(by_alpha))
    count = len(OPENINGS) * DRAWS * len(SEEDS)
    rise = slope({alpha: mean(point.vader) for alpha, point in by_alpha.items()})
    shown = [[name, *(" ".join(text.split()) for text in p.samples)] for name, p in points.items()]
    parts = [
        table(head, rows),
        f"{count} texts of each. VADER's mean rises by {rise:.3f} per unit of alpha; steps that do "
        f"not rise by their standard error: {unclear or 'none'}. On held-out sentences with human "
        f"ratings the classifier is right in {100 * results.accuracy:.0f} %, VADER in "
        f"{100 * results.vader_accuracy:.0f} %.",
        table(["", *(f"`{opening} ...`" for opening in OPENINGS[:SAMPLES])], shown),
    ]
    title = "base + alpha*(positive - negative), five seeds"
    sentiment = [
        Line("VADER, -1 to 1", [(a, p.vader) for a, p in by_alpha.items()]),
        Line("classifier: share positive", [(a, p.positive) for a, p in by_alpha.items()]),
    ]
    fluent = [Line("composed", [(a, p.perplexity) for a, p in by_alpha.items()])]
    levels = [Level(f"{name} alone", mean(p.perplexity)) for name, p in results.alone.items()]
    pictures = {
        "dexperts": chart(title, ("alpha", "sentiment"), sentiment, top=1),
        "dexperts_perplexity": chart(
            title, ("alpha", "perplexity under the base"), fluent, levels=levels
        ),
    }
    return Report("\n\n".join(parts), pictures)
