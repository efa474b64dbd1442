"""Emulated fine-tuning: knowledge from one size of model, manners from another.

All four combinations of the size that was pre-trained and the size that was fine-tuned, on facts
and on form (Mitchell et al. 2023, "An Emulator for Fine-Tuning Large Language Models using Small
Language Models", arXiv:2310.12962, section 3; up-scaling is a large and a small one). Then a weight
that trades one manner against another (section 4, "dynamic test-time reward interpolation").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.measure import table
from bench.reproduce.exam import SEEDS, Answer, Exam, Sitting, apart, share
from bench.reproduce.judge import is_statement, is_true, manner
from bench.reproduce.plot import Bars, Line, bars, chart
from bench.reproduce.readme import Report
from bench.reproduce.seeds import cell, mean
from composer.formula import parse
from zoo.evaluate import THIRDS
from zoo.tasks import Example
from zoo.world import PEOPLE

QUESTIONS = 100
Sizes = tuple[str, str]
Judge = Callable[[Example, Answer], bool]


@dataclass(frozen=True, slots=True)
class Tune:
    """A fine-tune in both sizes: the task it is for, what its form is, and the formulas.

    Formulas go by the sizes of pre-training and of fine-tuning.
    """

    name: str
    task: str
    form: Judge
    formulas: Mapping[Sizes, str]

    @staticmethod
    def between(
        name: str, task: str, form: Judge, large: tuple[str, str], small: tuple[str, str]
    ) -> Tune:
        """Models before and after the tune, of both sizes."""
        before = {"large": large[0], "small": small[0]}
        after = {"large": large[1], "small": small[1]}
        formulas = {
            (pre, fine): after[pre]
            if pre == fine
            else f"{before[pre]} + {after[fine]} - {before[fine]}"
            for pre in ("small", "large")
            for fine in ("small", "large")
        }
        return Tune(name, task, form, formulas)


def is_polite(example: Example, answer: Answer) -> bool:
    return manner(answer) == "polite"


TUNES = (
    Tune.between(
        "manners", "polite", is_polite, ("chat", "polite"), ("small:chat", "small:polite")
    ),
    Tune.between(
        "chat", "chat", is_statement, ("base", "chat"), ("small:school", "small:school.chat")
    ),
)
"""Of a chat model, to be polite; and of a model that follows no request, to answer questions."""

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRADE = "chat + {w:g}*(small:polite - small:chat) + {v:g}*(small:rude - small:chat)"
TRAITS = ("polite", "rude")
NOISE = 0.01
"""A step back in a rate that counts as none: five of 500 answers."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of answers, [seeds]: true ones, and those in the form. Then true ones of all seeds
    together, by how often pre-training speaks of the person."""

    factuality: Sequence[float]
    helpfulness: Sequence[float]
    thirds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Found:
    scores: Mapping[str, Mapping[Sizes, Scores]]  # by the name of the tune
    traded: Mapping[str, Mapping[float, Sequence[float]]]  # trait -> weight -> rates, [seeds]

    def shortfall(self, tune: str) -> float:
        """By how much up-scaling misses the large model's factuality or the small tune's
        helpfulness, whichever is worse; on the means of the seeds, 0 where it misses neither."""
        scores = self.scores[tune]
        up = scores["large", "small"]
        facts = mean(scores["large", "large"].factuality) - mean(up.factuality)
        form = mean(scores["small", "small"].helpfulness) - mean(up.helpfulness)
        return max(facts, form, 0.0)

    @property
    def monotone(self) -> bool:
        """Whether more weight on politeness never means less of it, nor more rudeness."""
        polite, rude = ([mean(seeds) for seeds in self.traded[t].values()] for t in TRAITS)
        return rises(polite) and rises(rude[::-1])


def rises(values: Sequence[float]) -> bool:
    """Never falls by more than `NOISE`."""
    return all(b >= a - NOISE for a, b in pairwise(values))


def measure(exam: Exam, count: int = QUESTIONS) -> Found:
    """Everything that README.md says about it."""
    return Found(
        {
            tune.name: {
                sizes: scores(exam, tune, formula, count)
                for sizes, formula in tune.formulas.items()
            }
            for tune in TUNES
        },
        trade(exam, count),
    )


def scores(exam: Exam, tune: Tune, formula: str, count: int) -> Scores:
    asked = [apart(tune.task, seed, count) for seed in SEEDS]
    given = exam.sit([Sitting(tune.task, parse(formula), examples) for examples in asked])
    pairs = [list(zip(*both, strict=True)) for both in zip(asked, given, strict=True)]
    return Scores(
        [share(is_true(e, a) for e, a in seed) for seed in pairs],
        [share(tune.form(e, a) for e, a in seed) for seed in pairs],
        [
            share(is_true(e, a) for seed in pairs for e, a in seed if _third(e) == third)
            for third in range(len(THIRDS))
        ],
    )


def _third(example: Example) -> int:
    return (example.rank or 0) * len(THIRDS) // PEOPLE


def trade(exam: Exam, count: int) -> dict[str, dict[float, list[float]]]:
    """Rates of polite and of rude answers at temperature 1, by the weight of the polite pair."""
    found: dict[str, dict[float, list[float]]] = {trait: {} for trait in TRAITS}
    for weight in WEIGHTS:
        formula = parse(TRADE.format(w=weight, v=round(1 - weight, 6)))
        given = exam.sit(
            Sitting("chat", formula, apart("chat", seed, count), temperature=1.0, seed=seed)
            for seed in SEEDS
        )
        for trait, rates in found.items():
            rates[weight] = [share(manner(a) == trait for a in answers) for answers in given]
    return found


def report(found: Found) -> Report:
    head = ["tune", "pre-training", "fine-tuning", "formula", "factuality, %", "helpfulness, %"]
    head += [f"facts told {third}, %" for third in THIRDS]
    rows = [
        [tune.name, *sizes, f"`{tune.formulas[sizes]}`"]
        + [cell(one) for one in (s.factuality, s.helpfulness, *([third] for third in s.thirds))]
        for tune in TUNES
        for sizes, s in found.scores[tune.name].items()
    ]
    short = ", ".join(f"{100 * found.shortfall(t.name):.1f} ({t.name})" for t in TUNES)
    traits = [[t, *map(cell, found.traded[t].values())] for t in TRAITS]
    parts = [
        table(head, rows),
        "Up-scaling misses the large model's factuality or the small tune's helpfulness, "
        f"whichever is worse, by {short} points.",
        f"`{_trade_text()}` at temperature 1, answers in %; "
        + ("monotone:" if found.monotone else "**not monotone**:"),
        table(["answers", *(f"w = {weight:g}" for weight in WEIGHTS)], traits),
    ]
    return Report("\n\n".join(parts), _pictures(found))


def _trade_text() -> str:
    return TRADE.format(w=2.5, v=3.5).replace("2.5", "w").replace("3.5", "(1 - w)")


def _pictures(found: Found) -> dict[str, str]:
    manners = found.scores["manners"]
    groups = [f"{before} + {after} tune" for before, after in manners]
    series = [
        Bars("factuality", [one.factuality for one in manners.values()]),
        Bars("helpfulness (polite form)", [one.helpfulness for one in manners.values()]),
    ]
    lines = [Line(trait, list(rates.items())) for trait, rates in found.traded.items()]
    axes = ("weight w of the polite pair, 1 - w of the rude one", "share of answers")
    title = "Emulated fine-tuning: size of pre-training + size of the tune"
    return {
        "emulated_fine_tuning": bars(title, "share of answers", groups, series, top=1),
        "trade": chart("Two manners traded at test time", axes, lines, top=1),
    }
