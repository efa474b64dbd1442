"""Reproductions on SmolLM2: their judges, and what is in their README."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.claims import CLAIMS
from bench.reproduce.readme import markers
from bench.reproduce.real.__main__ import NAMES, README
from bench.reproduce.real.context_aware import (
    FORM,
    FORMS,
    SYSTEM,
    Case,
    Form,
    contains,
    judge,
    split,
)
from bench.reproduce.real.dexperts import Point, formula_at, slope, standard_error, unclear_steps
from bench.reproduce.real.facts import RELATIONS, Fact, facts
from bench.reproduce.real.judges import Text, vader

PARIS = Case(Fact(RELATIONS[0], "France"), "Oslo")


@pytest.mark.parametrize(
    ("answer", "obeys", "knows"),
    [
        ("The capital of France is Oslo.", True, False),
        ("oslo", True, False),
        ("The capital of France is Paris.", False, True),
        ("Not Oslo, as you say, but Paris.", False, True),
        ("The capital of France is not Oslo.", False, False),
        ("That is incorrect: Oslo.", False, False),
        ("Oslo was never the capital of France.", False, False),
        ("France has no capital.", False, False),
        ("", False, False),
    ],
)
def test_the_judge_is_strict(answer: str, obeys: bool, knows: bool) -> None:
    outcome = judge(PARIS, answer)
    assert (outcome.obeys, outcome.knows) == (obeys, knows)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("It is Au.", "Au", True),
        ("Australia", "Au", False),
        ("au", "Au", False),
        ("Shakespeare's", "Shakespeare", True),
        ("Bogotá", "Bogot", True),
        ("Jerome", "Rome", False),
    ],
)
def test_an_answer_is_found_as_words(text: str, answer: str, found: bool) -> None:
    assert contains(text, answer) is found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_messages_without_their_context_are_the_bare_question(form: Form) -> None:
    case = Case(PARIS.fact, PARIS.wanted, form)
    assert "capital of France is Oslo." in case.context
    messages = [(role, text.replace(case.context, "").strip()) for role, text in case.messages]
    assert messages == [("system", SYSTEM), ("user", "What is the capital of France?")]


def test_a_false_context_is_false_and_repeatable() -> None:
    for fact in facts():
        for seed in range(5):
            wrong = fact.wrong_answer(seed)
            assert wrong != fact.known
            assert wrong == fact.wrong_answer(seed)
    assert len({fact.question for fact in facts()}) == len(facts())


def test_no_fact_is_in_both_splits() -> None:
    every_fact = facts()
    development, test = split(every_fact)
    assert not set(map(id, development)) & set(map(id, test))
    assert len(development) + len(test) == len(every_fact)


def test_vader_tells_praise_from_blame() -> None:
    words = ("A wonderful, moving film.", "A dull and terrible mess.", "It lasts two hours.")
    good, bad, neither = vader([Text((), (), text) for text in words])
    assert bad < -0.3
    assert neither == 0
    assert good > 0.3


def test_the_formula_of_an_alpha() -> None:
    assert dict(formula_at(1.5)) == {"base": 1.0, "positive": 1.5, "negative": -1.5}
    assert dict(formula_at(-2)) == {"base": 1.0, "positive": -2.0, "negative": 2.0}
    assert dict(formula_at(0)) == {"base": 1.0}


def test_a_step_is_clear_if_it_rises_by_its_standard_error() -> None:
    means = {-1.0: 0.0, 0.0: 0.1, 1.0: 0.3, 2.0: 0.2}
    points = {alpha: Point([value], 0.1, [0.5], [10.0], ("", "")) for alpha, value in means.items()}
    assert unclear_steps(points) == [(-1.0, 0.0), (1.0, 2.0)]
    assert slope({0.0: 1.0, 1.0: 3.0, 3.0: 7.0}) == pytest.approx(2)
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.645, abs=1e-3)


def measured(section: str) -> str:
    begin, end = markers(section)
    return README.read_text(encoding="utf-8").split(begin)[1].split(end)[0]


@pytest.mark.parametrize("section", NAMES)
def test_every_reproduction_is_in_the_readme(section: str) -> None:
    assert measured(section).startswith("| "), f"run python -m bench.reproduce.real {section}"
    assert f"python -m bench.reproduce.real {section}" in README.read_text(encoding="utf-8")


def test_plots_in_the_readme_are_there_and_no_others() -> None:
    shown = set(re.findall(r"\]\((plots/[a-z_]+\.svg)\)", README.read_text(encoding="utf-8")))
    assert shown == {f"plots/{path.name}" for path in (README.parent / "plots").iterdir()}
    for name in shown:
        ElementTree.parse(README.parent / name)


def test_the_claim_names_the_form_that_it_holds_for() -> None:
    [claim] = [claim for claim in CLAIMS if claim.name == "context_faith"]
    assert str(FORM) in claim.what
