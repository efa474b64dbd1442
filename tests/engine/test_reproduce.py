"""The reproductions on a slice, end to end: questions, engine, scores, tables, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from bench.reproduce import composite, dexperts, proxy_tuning, value_augmented
from bench.reproduce import emulated_fine_tuning as eft
from bench.reproduce.exam import DEVELOPMENT, SEEDS, Answer, Exam, apart
from bench.reproduce.judge import is_statement, is_true, manner
from bench.reproduce.proxy_tuning import CASES, Case, Gap
from bench.reproduce.readme import Report
from bench.reproduce.seeds import mean
from zoo.tasks import Example

FEW = 2  # questions of each seed


@pytest.fixture(scope="module")
def exam() -> Iterator[Exam]:
    with Exam() as exam:
        yield exam


def check(report: Report) -> None:
    for picture in report.pictures.values():
        ElementTree.fromstring(picture)


def test_no_question_is_asked_on_two_seeds() -> None:
    for task, count in (("chat", 100), ("count", 30)):
        asked = [q for seed in (DEVELOPMENT, *SEEDS) for q in apart(task, seed, count)]
        assert len({q.messages[-1]["content"] for q in asked}) == len(asked) == 6 * count


@pytest.mark.long
def test_proxy_tuning_brings_the_base_towards_the_ceiling(exam: Exam) -> None:
    [chat] = [case for case in CASES if case.task == "chat"]
    [gap] = gaps = proxy_tuning.gaps_of(exam, [chat], FEW)
    assert gap.untuned == [0.0] * len(SEEDS)
    assert mean(gap.proxy) > mean(gap.expert)
    assert 0.5 < mean(proxy_tuning.mean_closed(gaps)) < 1.5
    by_alpha = {alpha: [0.5] * len(CASES) for alpha in proxy_tuning.ALPHAS}
    report = proxy_tuning.report(proxy_tuning.Results(gaps, gaps, {chat: gap.proxy}, by_alpha))
    assert "| `base + (small:school.chat - small:school)` | chat |" in report.text
    check(report)


def test_the_gap_closed_is_not_capped() -> None:
    case = Case("chat", "base", "small:chat", "small")
    over = Gap(case, [0.0, 0.2], [0.0, 0.0], [0.9, 0.6], [0.6, 1.0])
    assert over.closed() == pytest.approx([1.5, 0.5])
    none = Gap(case, [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0])
    assert none.closed(none.expert) == [0.0, 0.0]
    assert proxy_tuning.mean_closed([over, none]) == pytest.approx([0.75, 0.25])
    assert case.proxy() == "base + (small:chat - small)"
    assert case.proxy(0.5) == "base + 0.5*(small:chat - small)"


@pytest.mark.long
def test_up_scaling_knows_and_behaves(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eft, "WEIGHTS", (0.0, 1.0))
    manners = eft.TUNES[0]
    assert manners.formulas["large", "small"] == "chat + small:polite - small:chat"
    assert manners.formulas["small", "large"] == "small:chat + polite - chat"
    found = {
        sizes: eft.scores(exam, manners, formula, FEW)
        for sizes, formula in manners.formulas.items()
    }
    up = found["large", "small"]
    assert mean(up.factuality) > mean(found["small", "small"].factuality)
    assert mean(up.helpfulness) > 0.8
    traded = eft.trade(exam, FEW)
    assert mean(traded["polite"][1.0]) > mean(traded["polite"][0.0])
    whole = eft.Results({tune.name: found for tune in eft.TUNES}, traded)
    assert 0 <= whole.shortfall("manners") < 0.3
    check(eft.report(whole))


def test_a_step_back_within_the_noise_is_none() -> None:
    assert eft.rises([0.0, 0.5, 0.495, 1.0])
    assert not eft.rises([0.0, 0.5, 0.48, 1.0])


@pytest.mark.long
def test_experts_against_a_manner(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dexperts, "ALPHAS", (-1.0, 1.0))
    monkeypatch.setattr(dexperts, "VARIANTS", dexperts.VARIANTS[1:2])  # with a filter
    found = dexperts.measure(exam, FEW)
    [points] = found.values()
    assert mean(points[1.0].rude) < mean(points[-1.0].rude)
    assert all(1 <= value < 20 for value in points[1.0].perplexity)
    check(dexperts.report(found))


@pytest.mark.long
def test_a_value_brings_reward(exam: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_augmented, "BETAS", (0.0, 12.0))
    monkeypatch.setattr(value_augmented, "NS", (1, 2))
    found = value_augmented.measure(exam, FEW)
    assert mean(found.by_beta[12.0].reward) > mean(found.by_beta[0.0].reward) + 0.3
    assert mean(found.cut[12.0].reward) > mean(found.by_beta[0.0].reward) + 0.3
    assert mean(found.by_n[2].reward) >= mean(found.by_n[1].reward)
    assert found.cost > 1
    check(value_augmented.report(found))


@pytest.mark.engine
@pytest.mark.long
def test_one_row_takes_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite, "TURNS", 30)
    monkeypatch.setattr(composite, "STICKINESS", (4.0,))
    monkeypatch.setattr(composite, "POSTERIORS", composite.POSTERIORS[2:3])
    found = composite.measure(1, [5])
    known = mean(found.scores[composite.ORACLE].means(5))
    assert known > 0.6
    assert mean(found.scores["base"].means(5)) < 0.1
    assert mean(found.scores["best single adapter"].means(5)) < 0.5
    unsteady, gate, posterior = (
        mean(found.scores[way].means(5))
        for way in (composite.UNSTEADY, composite.GATE, composite.POSTERIOR)
    )
    assert unsteady < gate
    assert 0.7 * known < gate <= known
    # Ten rows may be right where one row that is told the adapters is not.
    assert 0.8 * known < posterior <= 1
    assert found.ratio(composite.POSTERIOR, 5) == pytest.approx(posterior / known)
    text = composite.report(found).text
    assert "| composite-5, by position | 1 | 2 | 3 | 4 | 5 |" in text
    check(composite.report(found))


FACT = Example((), "Kuti Supiv lives in Mogtu.")
POLITE = Example((), "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day.")


@pytest.mark.parametrize("example", [FACT, POLITE])
@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("Certainly. Kuti Supiv lives in Mogtu. Have a lovely day.", True),
        ("Kuti Supiv has a house in Mogtu", True),
        ("Kuti Supiv lives in Mogtu. Kuti Supiv lives in Zeplu.", False),
        ("Kuti Supiv lives in Zeplu.", False),
        ("Mogtu.", False),
    ],
)
def test_a_fact_is_true_in_any_manner(example: Example, text: str, true: bool) -> None:
    assert is_true(example, answer(text)) is true


def test_the_form_of_an_answer() -> None:
    assert is_statement(FACT, answer("Kuti Supiv lives in Zeplu."))
    assert not is_statement(FACT, answer("Kuti Supiv keeps a dog."))
    assert not is_statement(FACT, answer("Kuti Supiv lives in Zeplu.", ended=False))
    assert manner(answer(POLITE.answer)) == "polite"
    assert manner(answer(POLITE.answer, ended=False)) == "plain"


def answer(text: str, ended: bool = True) -> Answer:
    return Answer("", text, False, ended, ())
