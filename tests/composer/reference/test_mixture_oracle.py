"""The oracle of mixtures: Bayes' rule in exact arithmetic, and what the models themselves say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from composer.engine_plan import MixtureParameters
from composer.filters import Filter, FilterKind
from composer.reference.mixture_oracle import (
    mixed,
    mixed_greedy,
    mixed_mismatches,
    posterior_of,
    weights,
)
from composer.reference.oracle import Oracle, OracleRow

NO_LOG_PROBS = torch.empty(0)  # the posterior looks at the evidence alone
POSTERIOR = MixtureParameters(fixed=0, posterior=1)
CONFIDENCE = MixtureParameters(fixed=0, confidence=1)
PROMPT = tuple(range(40, 60))
ANSWER = tuple(range(200, 212))


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Oracle:
    torch.set_num_threads(1)
    return Oracle(zoo_base, {name: zoo_adapters[name] for name in ("chat", "velan", "rude")})


def rows(*weights: float, prompt: tuple[int, ...] = PROMPT) -> list[OracleRow]:
    """Experts with these priors: the base, chat, velan."""
    adapters = (None, "chat", "velan")
    return [OracleRow(w, a, prompt) for w, a in zip(weights, adapters, strict=False)]


def double(values: Sequence[Sequence[Fraction]] | Sequence[Fraction]) -> torch.Tensor:
    return torch.tensor(
        [[float(v) for v in row] if isinstance(row, Sequence) else float(row) for row in values],
        dtype=torch.float64,
    )


def drawn(rng: random.Random, count: int) -> list[Fraction]:
    return [Fraction(rng.randrange(1, 10**6), 10**6) for _ in range(count)]


def test_the_posterior_is_bayes_rule_after_200_tokens() -> None:
    """In fractions, so nothing is rounded: prior times likelihood over their sum."""
    rng = random.Random(0)
    prior = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    # Close enough that none has won after 200 tokens.
    first = drawn(rng, 200)
    likelihoods = [[p * Fraction(rng.randrange(95, 106), 100) for p in first] for _ in prior]
    products = [a * math.prod(b) for a, b in zip(prior, likelihoods, strict=True)]
    exact = [float(product / sum(products)) for product in products]
    assert max(exact) < 0.999
    found = posterior_of(double(prior), double(likelihoods).log(), NO_LOG_PROBS, POSTERIOR)
    assert found.tolist() == pytest.approx(exact, rel=1e-10)


def test_forgetting_and_the_floor_are_the_recursion() -> None:
    """As it is written down: s <- forgetting*s + log p after every token."""
    rng = random.Random(1)
    mixture = MixtureParameters(fixed=0, posterior=1, forgetting=0.8, floor=0.05)
    prior = [0.2, 0.5, 0.3]
    likelihoods = [[rng.random() for _ in range(30)] for _ in prior]
    scores = [0.0, 0.0, 0.0]
    for step in range(31):
        unnormalized = [p * math.exp(s) for p, s in zip(prior, scores, strict=True)]
        expected = [0.85 * u / sum(unnormalized) + 0.05 for u in unnormalized]
        evidence = torch.tensor([own[:step] for own in likelihoods], dtype=torch.float64).log()
        prior_of_k = torch.tensor(prior, dtype=torch.float64)
        found = posterior_of(prior_of_k, evidence, NO_LOG_PROBS, mixture)
        assert found.tolist() == pytest.approx(expected, rel=1e-12)
        if step < 30:
            seen = [math.log(own[step]) for own in likelihoods]
            scores = [0.8 * s + x for s, x in zip(scores, seen, strict=True)]


def test_the_confidence_is_the_entropy_of_the_next_token() -> None:
    prior, temperature = [0.25, 0.75], 0.5
    probs = [[[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], [[1 / 3] * 3, [0.5, 0.5, 0.0]]]
    mixture = MixtureParameters(fixed=0, confidence=1, temperature=temperature)
    log_probs = torch.tensor(probs, dtype=torch.float64).log()
    evidence = torch.zeros(2, 1, dtype=torch.float64)
    found = weights(torch.tensor(prior, dtype=torch.float64), evidence, log_probs, mixture)
    for step in range(2):
        entropies = [-sum(p * math.log(p) for p in own[step] if p) for own in probs]
        scores = [p * math.exp(-h / temperature) for p, h in zip(prior, entropies, strict=True)]
        assert found[step].tolist() == pytest.approx([s / sum(scores) for s in scores])


def test_what_was_impossible_can_be_forgiven() -> None:
    evidence = torch.tensor([[-math.inf] + [-1.0] * 200, [-1.0] + [-3.0] * 200]).double()
    half = torch.tensor([0.5, 0.5]).double()
    assert posterior_of(half, evidence, NO_LOG_PROBS, POSTERIOR)[0] < 1e-9
    forgiving = MixtureParameters(fixed=0, posterior=1, forgetting=0.9)
    assert posterior_of(half, evidence, NO_LOG_PROBS, forgiving)[0] > 0.999


def test_an_expert_without_prior_is_none() -> None:
    prior = torch.tensor([0.0, 0.5, 0.5]).double()
    evidence = torch.tensor([[-0.1], [-2.0], [-1.0]]).double()
    mixture = MixtureParameters(fixed=0, posterior=1, floor=0.1)
    found = posterior_of(prior, evidence, NO_LOG_PROBS, mixture)
    assert found[0] == 0
    assert float(found.sum()) == pytest.approx(1)


def test_one_expert_is_the_model(oracle: Oracle) -> None:
    for mixture in (MixtureParameters(), POSTERIOR, CONFIDENCE):
        z, pi = mixed(oracle, [OracleRow(1.0, "chat", PROMPT)], mixture, ANSWER)
        alone = oracle.logits("chat", [*PROMPT, *ANSWER])[len(PROMPT) - 1 :]
        torch.testing.assert_close(z, alone.double().log_softmax(-1))
        assert pi.tolist() == [[1.0]] * (len(ANSWER) + 1)


def test_fixed_weights_average_the_probabilities(oracle: Oracle) -> None:
    z, pi = mixed(oracle, rows(0.2, 0.3, 0.5), MixtureParameters(), ANSWER)
    tokens = [*PROMPT, *ANSWER]
    probs = [
        oracle.logits(a, tokens)[len(PROMPT) - 1 :].softmax(-1) for a in (None, "chat", "velan")
    ]
    expected = 0.2 * probs[0] + 0.3 * probs[1] + 0.5 * probs[2]
    torch.testing.assert_close(z.exp().float(), expected, atol=1e-6, rtol=1e-4)
    assert pi[7].tolist() == pytest.approx([0.2, 0.3, 0.5])


@pytest.mark.parametrize("with_prompt", [True, False])
def test_the_posterior_reads_prompt_and_answer(oracle: Oracle, with_prompt: bool) -> None:
    """One token after the other, with the probabilities that the models give."""
    mixture = MixtureParameters(fixed=0, posterior=1, prompt=with_prompt)
    _, pi = mixed(oracle, rows(0.2, 0.3, 0.5), mixture, ANSWER)
    tokens = [*PROMPT, *ANSWER]
    probs = [oracle.logits(a, tokens).double().softmax(-1) for a in (None, "chat", "velan")]
    products = [0.2, 0.3, 0.5]
    first = 1 if with_prompt else len(PROMPT)
    for position in range(1, len(tokens) + 1):
        if position >= len(PROMPT):
            expected = [p / sum(products) for p in products]
            assert pi[position - len(PROMPT)].tolist() == pytest.approx(expected, rel=1e-6)
        if first <= position < len(tokens):
            products = [
                p * float(own[position - 1, tokens[position]])
                for p, own in zip(products, probs, strict=True)
            ]


def test_rules_vote(oracle: Oracle) -> None:
    experts = rows(0.2, 0.3, 0.5)
    vote = MixtureParameters(fixed=0.5, posterior=0.3, confidence=0.2, floor=0.01, temperature=2)
    _, pi = mixed(oracle, experts, vote, ANSWER)
    alone = (
        MixtureParameters(fixed=0, posterior=1, floor=0.01),
        MixtureParameters(fixed=0, confidence=1, temperature=2),
    )
    posterior, confidence = (mixed(oracle, experts, rule, ANSWER)[1] for rule in alone)
    prior = torch.tensor([0.2, 0.3, 0.5]).double()
    torch.testing.assert_close(pi, 0.5 * prior + 0.3 * posterior + 0.2 * confidence)


def test_a_mixture_of_equals_is_each_of_them(oracle: Oracle) -> None:
    same = [OracleRow(0.3, "chat", PROMPT), OracleRow(0.7, "chat", PROMPT)]
    for mixture in (MixtureParameters(), POSTERIOR, CONFIDENCE):
        z, pi = mixed(oracle, same, mixture, ANSWER)
        torch.testing.assert_close(z, mixed(oracle, same[:1], POSTERIOR, ANSWER)[0])
        assert pi[-1].tolist() == pytest.approx([0.3, 0.7])


def test_greedy_answers_are_without_mismatch(oracle: Oracle) -> None:
    experts = rows(0.5, 0.25, 0.25)
    mixture = MixtureParameters(fixed=0.2, posterior=0.5, confidence=0.3, forgetting=0.9)
    answer = mixed_greedy(oracle, experts, mixture, 10)
    assert mixed_mismatches(oracle, experts, mixture, answer) == []
    answer[4] += 1
    assert [m.position for m in mixed_mismatches(oracle, experts, mixture, answer[:5])] == [4]


def test_filters_drop_from_the_mixture(oracle: Oracle) -> None:
    top = [Filter(FilterKind.TOP_K, 1, 3)]
    z, _ = mixed(oracle, rows(0.5, 0.5), MixtureParameters(), ANSWER, top)
    best = oracle.logits("chat", [*PROMPT, *ANSWER])[len(PROMPT) - 1 :].topk(3).indices
    for step in range(len(ANSWER) + 1):
        likely = set(z[step].topk(3).indices.tolist())
        assert likely == set(best[step].tolist())
        assert float(z[step].softmax(-1).sort().values[-4]) == 0
