"""Context-aware decoding: contexts that contradict what the model knows.

`(1 + alpha)*model(context, question) - alpha*model(question)` (Shi et al. 2023, arXiv:2305.14739,
equation 3), as the recipe `context_aware` builds it. Facts count that the model knows: its own
greedy answer to the bare question contains the true one. A context then states another answer. An
answer obeys if it contains the answer of the context, not the true one, and no denial.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.inprocess import Job
from bench.measure import table
from bench.reproduce.plot import Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.real.facts import Fact, facts
from bench.reproduce.real.model import SEEDS, RealModel
from bench.reproduce.seeds import cell, mean
from composer.engine_plan import Row
from composer.prompts import WithoutText
from composer.recipes.context_aware import ContextAware, build

ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
"""The system message that the chat template gives a conversation without one."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a prompt mentions a context: before the question, or after the system message."""

    text: str
    in_system: bool = False

    def __str__(self) -> str:
        place = "at the end of the system message" if self.in_system else "before the question"
        return f"`{self.text.format('...').strip()}` {place}"


FORMS = (
    Form("{}"),
    Form("Note: {}"),
    Form("I heard that {}"),
    Form('My friend said: "{}"'),
    Form(" Remember: {}", in_system=True),
)

FORM = FORMS[-1]
"""Chosen on the development facts: the form that the model alone obeys least."""

ALPHA = 1.0
"""Of the claim and of the answers shown; not tuned."""

DEVELOPMENT_SHARE = 3  # every third fact is for the choice of a form
DEVELOPMENT_SEEDS = (101, 102)
SAMPLES = 8  # answers that are shown
PARAMS: dict[str, Any] = {"max_tokens": 24, "ignore_eos": False}
_DENIAL = re.compile(r"(?<!\w)(not|never|isn't|wasn't|incorrect)(?!\w)")


@dataclass(frozen=True, slots=True)
class Case:
    """A question, and a context that gives a wrong answer to it."""

    fact: Fact
    wanted: str
    form: Form = FORM

    @property
    def context(self) -> str:
        statement = self.fact.context(self.wanted)
        if self.form.in_system:
            statement = statement[0].upper() + statement[1:]
        return self.form.text.format(statement)

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """Role and content of each message."""
        if self.form.in_system:
            return ("system", f"{SYSTEM}{self.context}"), ("user", self.fact.question)
        return ("system", SYSTEM), ("user", f"{self.context} {self.fact.question}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether an answer obeys the context, and whether it contains the true answer."""

    obeys: bool
    knows: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """Outcomes, `[seeds][facts]`, and the first cases with their answers."""

    outcomes: Sequence[Sequence[Outcome]]
    first: Sequence[tuple[Case, str]]

    @property
    def obeys(self) -> list[float]:
        """Shares that obey, [seeds]."""
        return [mean([float(outcome.obeys) for outcome in seed]) for seed in self.outcomes]

    @property
    def knows(self) -> list[float]:
        """Shares that contain the true answer, [seeds]."""
        return [mean([float(outcome.knows) for outcome in seed]) for seed in self.outcomes]


@dataclass(frozen=True, slots=True)
class Results:
    """Answers by alpha to the test facts, and shares that obey on the development facts."""

    facts: int
    by_alpha: Mapping[float, Asked]
    by_form: Mapping[Form, Mapping[float, float]]  # development


def contains(text: str, answer: str) -> bool:
    """Return whether `text` contains `answer` as words; symbols of at most two letters keep case.

    Longer answers may be followed by letters, as in `Shakespeare's` and `Bogotá`.
    """
    if len(answer) <= 2:
        return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None
    return re.search(rf"(?<!\w){re.escape(answer)}", text, re.IGNORECASE) is not None


def judge(case: Case, answer: str) -> Outcome:
    """Judge strictly: a denial, or both answers at once, do not obey."""
    knows = contains(answer, case.fact.known)
    denies = _DENIAL.search(answer) is not None
    return Outcome(contains(answer, case.wanted) and not knows and not denies, knows)


def known_facts(model: RealModel) -> list[Fact]:
    """Return the facts that the model's greedy answer to the bare question states."""
    every_fact = facts()
    answers = model.texts([Job(model.ask(f.question), params=PARAMS) for f in every_fact])
    pairs = zip(every_fact, answers, strict=True)
    return [fact for fact, answer in pairs if contains(answer, fact.known)]


def split(known: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Return development facts and test facts."""
    test = [fact for number, fact in enumerate(known) if number % DEVELOPMENT_SHARE]
    return list(known[::DEVELOPMENT_SHARE]), test


def job(model: RealModel, case: Case, alpha: float) -> Job:
    """Return the request that the recipe makes of the case."""
    fields = ContextAware(recipe="context_aware", context=case.context, alpha=alpha)
    terms, _ = build(fields)
    rows = []
    for member, weight in terms:
        bare = None
        if isinstance(member.prompt, WithoutText):
            removed = member.prompt.text
            bare = model.chat(*((r, t.replace(removed, "").strip()) for r, t in case.messages))
        rows.append(Row(weight, None, bare))
    return Job(model.chat(*case.messages), tuple(rows) if alpha else None, params=PARAMS)


def ask(
    model: RealModel,
    known: Sequence[Fact],
    alpha: float,
    form: Form = FORM,
    seeds: Sequence[int] = SEEDS,
) -> Asked:
    """Answer each fact's question with a false context for each seed."""
    cases = [Case(fact, fact.wrong_answer(seed), form) for seed in seeds for fact in known]
    answers = model.texts([job(model, case, alpha) for case in cases])
    pairs = list(zip(cases, answers, strict=True))
    outcomes = [judge(case, answer) for case, answer in pairs]
    count = len(known)
    by_seed = [outcomes[i * count : (i + 1) * count] for i in range(len(seeds))]
    return Asked(by_seed, pairs[:SAMPLES])


def measure(model: RealModel) -> Results:
    """Measure everything that README.md reports."""
    development, test = split(known_facts(model))

    def tried(form: Form, alpha: float) -> float:
        return mean(ask(model, development, alpha, form, DEVELOPMENT_SEEDS).obeys)

    by_form = {form: {alpha: tried(form, alpha) for alpha in (0.0, 1.0)} for form in FORMS}
    by_form[FORM] |= {a: tried(FORM, a) for a in ALPHAS if a not in by_form[FORM]}
    return Results(len(test), {alpha: ask(model, test, alpha) for alpha in ALPHAS}, by_form)


def _line(text: str) -> str:
    return " ".join(text.split())


def report(results: Results) -> Report:
    """Return the section of README.md."""
    by_alpha = results.by_alpha
    rows = [[f"{alpha:g}", cell(a.obeys), cell(a.knows)] for alpha, a in by_alpha.items()]
    tried = [
        [
            str(form),
            *(f"{100 * shares[a]:.0f}" if a in shares else "-" for a in ALPHAS),
        ]
        for form, shares in results.by_form.items()
    ]
    pairs = zip(by_alpha[0.0].first, by_alpha[ALPHA].first, strict=True)
    samples = [
        [
            f"{case.context.strip()} {case.fact.question}",
            " ".join(plain.split()),
            " ".join(composed.split()),
        ]
        for (case, plain), (_, composed) in pairs
    ]
    parts = [
        table(["alpha", "obeys the context, %", "contains the true answer, %"], rows),
        f"{results.facts} facts, each with a false context for each of the five seeds. "
        "Obeys on the development facts, %, by form and alpha:",
        table(["form", *(f"{alpha:g}" for alpha in ALPHAS)], tried),
        "The first prompts of the test, and the beginnings of their answers:",
        table(["prompt", "alpha 0", f"alpha {ALPHA:g}"], samples),
    ]
    lines = [
        Line("obeys the context", [(alpha, a.obeys) for alpha, a in by_alpha.items()]),
        Line("contains the true answer", [(alpha, a.knows) for alpha, a in by_alpha.items()]),
    ]
    title = "Contexts against world knowledge, five seeds"
    picture = chart(title, ("alpha", "share of answers"), lines, top=1)
    return Report("\n\n".join(parts), {"context_aware": picture})
