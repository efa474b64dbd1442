"""Emulated fine-tuning: knowledge from one size of model, manners from another.

All four combinations of the pre-trained and the fine-tuned size, judged on facts and on form
(Mitchell et al. 2023, "An Emulator for Fine-Tuning Large Language Models using Small Language
Models", arXiv:2310.12962, section 3; up-scaling combines a large pre-trained and a small fine-tuned
model). Then a weight trades one manner against another (section 4, "dynamic test-time reward
interpolation").
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
    """A fine-tune in both sizes: its task, the judge of its form, and its formulas.

    `formulas` has the sizes (of pre-training, of fine-tuning) as keys.
    """

    name: str
    task: str
    form: Judge
    formulas: Mapping[Sizes, str]

    @staticmethod
    def between(
        name: str, task: str, form: Judge, large: tuple[str, str], small: tuple[str, str]
    ) -> Tune:
        """Return a tune, given the models before and after it in both sizes."""
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
"""One tune makes a chat model polite; the other makes a model that ignores requests answer them."""

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRADE = "chat + {w:g}*(small:polite - small:chat) + {v:g}*(small:rude - small:chat)"
TRAITS = ("polite", "rude")
NOISE = 0.01
"""Largest step back in a rate that counts as noise: five of 500 answers."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of answers.

    `factuality` and `helpfulness` are [seeds]; `thirds` are shares of true answers of all seeds by
    how often pre-training mentions the person.
    """

    factuality: Sequence[float]
    helpfulness: Sequence[float]
    thirds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Results:
    """Scores of all tunes, and of the traded manners."""

    scores: Mapping[str, Mapping[Sizes, Scores]]  # by the name of the tune
    traded: Mapping[str, Mapping[float, Sequence[float]]]  # trait -> weight -> rates, [seeds]

    def shortfall(self, tune: str) -> float:
        """Return by how much up-scaling misses the worse of its two aims, from means over seeds.

        The aims are the large model's factuality and the small tune's helpfulness; 0 if both are
        met.
        """
        scores = self.scores[tune]
        up = scores["large", "small"]
        facts = mean(scores["large", "large"].factuality) - mean(up.factuality)
        form = mean(scores["small", "small"].helpfulness) - mean(up.helpfulness)
        return max(facts, form, 0.0)

    @property
    def monotone(self) -> bool:
        """Whether more weight on politeness never gives fewer polite or more rude answers."""
        polite, rude = ([mean(seeds) for seeds in self.traded[t].values()] for t in TRAITS)
        return rises(polite) and rises(rude[::-1])


def rises(values: Sequence[float]) -> bool:
    """Return whether no step falls by more than `NOISE`."""
    return all(b >= a - NOISE for a, b in pairwise(values))


def measure(exam: Exam, count: int = QUESTIONS) -> Results:
    """Measure everything that README.md reports on emulated fine-tuning."""
    return Results(
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
    """Measure one formula of a tune."""
    questions = [apart(tune.task, seed, count) for seed in SEEDS]
    answers = exam.sit([Sitting(tune.task, parse(formula), examples) for examples in questions])
    pairs = [list(zip(*both, strict=True)) for both in zip(questions, answers, strict=True)]
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
    """Return rates of polite and rude answers at temperature 1, by weight of the polite pair."""
    by_trait: dict[str, dict[float, list[float]]] = {trait: {} for trait in TRAITS}
    for weight in WEIGHTS:
        formula = parse(TRADE.format(w=weight, v=round(1 - weight, 6)))
        by_seed = exam.sit(
            Sitting("chat", formula, apart("chat", seed, count), temperature=1.0, seed=seed)
            for seed in SEEDS
        )
        for trait, rates in by_trait.items():
            rates[weight] = [share(manner(a) == trait for a in answers) for answers in by_seed]
    return by_trait


def report(results: Results) -> Report:
    """Return the section of README.md."""
    head = ["tune", "pre-training", "fine-tuning", "formula", "factuality, %", "helpfulness, %"]
    head += [f"facts told {third}, %" for third in THIRDS]
    rows = [
        [tune.name, *sizes, f"`{tune.formulas[sizes]}`"]
        + [cell(v) for v in (s.factuality, s.helpfulness, *([third] for third in s.thirds))]
        for tune in TUNES
        for sizes, s in results.scores[tune.name].items()
    ]
    short = ", ".join(f"{100 * results.shortfall(t.name):.1f} ({t.name})" for t in TUNES)
    traits = [[t, *map(cell, results.traded[t].values())] for t in TRAITS]
    parts = [
        table(head, rows),
        "Up-scaling misses the large model's factuality or the small tune's helpfulness, "
        f"whichever is worse, by {short} points.",
        f"`{_trade_text()}` at temperature 1, answers in %; "
        + ("monotone:" if results.monotone else "**not monotone**:"),
        table(["answers", *(f"w = {weight:g}" for weight in WEIGHTS)], traits),
    ]
    return Report("\n\n".join(parts), _pictures(results))


def _trade_text() -> str:
    return TRADE.format(w=2.5, v=3.5).replace("2.5", "w").replace("3.5", "(1 - w)")


def _pictures(results: Results) -> dict[str, str]:
    manners = results.scores["manners"]
    groups = [f"{before} + {after} tune" for before, after in manners]
    series = [
        Bars("factuality", [s.factuality for s in manners.values()]),
        Bars("helpfulness (polite form)", [s.helpfulness for s in manners.values()]),
    ]
    lines = [Line(trait, list(rates.items())) for trait, rates in results.traded.items()]
    axes = ("weight w of the polite pair, 1 - w of the rude one", "share of answers")
    title = "Emulated fine-tuning: size of pre-training + size of the tune"
    return {
        "emulated_fine_tuning": bars(title, "share of answers", groups, series, top=1),
        "trade": chart("Two manners traded at test time", axes, lines, top=1),
    }
