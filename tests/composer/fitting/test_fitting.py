"""Weights from examples: formulas with free names, Newton's method, mixtures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from composer.errors import CompositionSchemaError, FormulaSyntaxError
from composer.fitting.affine import AffineFormula
from composer.fitting.mixture_weights import fit_mixture, mixture_errors, mixture_score
from composer.fitting.newton import Newton, Point

MODELS = ("base", "chat", "polite", "rude")


@pytest.mark.parametrize(
    ("text", "free", "theta", "weights"),
    [
        ("chat + a*(polite - rude)", ("a",), [0.5], {"chat": 1, "polite": 0.5, "rude": -0.5}),
        ("base + b*(2*rude - base/4)", ("b",), [2], {"base": 0.5, "rude": 4}),
        ("x*base + y*polite + base", ("x", "y"), [2, -1], {"base": 3, "polite": -1}),
        ("(1 - a)*base + a*chat", ("a",), [0.25], {"base": 0.75, "chat": 0.25}),
        ("a/2*base + -(a)*chat", ("a",), [4], {"base": 2, "chat": -4}),
    ],
)
def test_weights_depend_on_free_names(
    text: str, free: tuple[str, ...], theta: list[float], weights: dict[str, float]
) -> None:
    formula = AffineFormula.parse(text, MODELS)
    assert formula.free == free
    found = dict(zip(formula.models, formula.weights(theta), strict=True))
    assert found == pytest.approx(weights)


@pytest.mark.parametrize("text", ["a*b*base", "a*a*base + rude", "base + a*(b*rude - chat)"])
def test_products_of_free_names_are_refused(text: str) -> None:
    with pytest.raises(CompositionSchemaError, match="free names by each other"):
        AffineFormula.parse(text, MODELS)


def test_a_formula_without_free_names_or_models_is_refused() -> None:
    with pytest.raises(CompositionSchemaError, match="no free name"):
        AffineFormula.parse("base + polite", MODELS)
    with pytest.raises(FormulaSyntaxError, match="division by zero"):
        AffineFormula.parse("base/0 + a*base", MODELS)
    with pytest.raises(CompositionSchemaError, match="33 free names; find at most 32"):
        AffineFormula.parse(" + ".join(f"x{n}*base" for n in range(33)), MODELS)


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("chat + a*(polite - rdue)", "rdue", "did you mean 'rude'?"),
        ("a*(rdue - polite) + chat", "rdue", "did you mean 'rude'?"),
        ("chat + a*rdue", "rdue", "did you mean 'rude'?"),
        ("(1 - a)*chta + a*base", "chta", "did you mean 'chat'?"),
        ("chat + rdue", "rdue", "did you mean 'rude'?"),
        ("'rdue'", "'rdue'", "did you mean 'rude'?"),
        ("a + b", "b", "e.g. 'b*base'"),
        ("chat + a*xyz", "xyz", "e.g. 'xyz*base'"),
        ("base + chat*polite", "chat", "'chat' is a model"),
        ("base + a*polite + (chat - base)*rude", "chat", "'chat' is a model"),
        ("base/x", "x", "cannot be a divisor"),
        ("base/(2 - a)", "(2", "cannot be a divisor"),
        ("chat + 2 + a*base", "2", "a constant cannot be added"),
    ],
)
def test_a_name_must_stand_where_its_kind_may(text: str, at: str, words: str) -> None:
    """A free name multiplies models; where a model must stand, it is a misspelt one."""
    with pytest.raises(FormulaSyntaxError) as refused:
        AffineFormula.parse(text, MODELS)
    assert words in refused.value.message
    assert refused.value.position == text.index(at)
    assert refused.value.param == "formula"


@pytest.mark.parametrize("text", ["base + rdue*polite", "(rdue + 1)*polite", "base*chta/2"])
def test_a_free_name_may_be_like_a_models(text: str) -> None:
    assert AffineFormula.parse(text, MODELS).free in {("rdue",), ("chta",)}


class LogLinear:
    """Tokens drawn from a composition of random logits, and its exact score by weights."""

    def __init__(self, truth: list[float], tokens: int, seed: int, vocabulary: int = 30) -> None:
        rng = np.random.default_rng(seed)
        self.logits = rng.normal(size=(len(truth), tokens, vocabulary))
        z = np.einsum("k,ktv->tv", np.array(truth), self.logits)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        self.targets = np.array([rng.choice(vocabulary, p=row) for row in p])

    def at(self, theta: Any) -> Point:
        z = np.einsum("k,ktv->tv", theta, self.logits)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        p, rows = np.exp(log_p), np.arange(len(self.targets))
        mean = np.einsum("tv,ktv->kt", p, self.logits)
        own = self.logits[:, rows, self.targets]
        centred = self.logits - mean[:, :, None]
        hessian = -np.einsum("tv,ktv,jtv->kj", p, centred, centred)
        score = float(log_p[rows, self.targets].sum())
        return Point(np.asarray(theta), score, (own - mean).sum(1), hessian)


def searched(
    model: LogLinear, start: list[float], bound: float = 100.0, ridge: float = 1e-4
) -> Newton:
    size = len(start)
    bounds = np.full(size, -bound), np.full(size, bound)
    newton = Newton(np.array(start), *bounds, len(model.targets), ridge)
    while not newton.done:
        assert newton.passes < 12
        newton.learn([model.at(theta) for theta in newton.proposed])
    return newton


def test_true_weights_lie_within_two_standard_errors() -> None:
    truth, inside = [1.0, -0.6, 0.3], 0
    for seed in range(20):
        newton = searched(LogLinear(truth, 400, seed), [1.0, 0.0, 0.0])
        assert newton.best is not None
        errors = newton.standard_errors()
        assert newton.converged
        assert newton.passes <= 8
        inside += bool((np.abs(newton.best.theta - truth) < 2 * errors).all())
    assert inside >= 15  # 0.954^3 of them are expected


def test_the_maximum_is_found_although_models_round() -> None:
    """Logits of two passes differ, and by more than what the last steps gain."""
    for seed in range(30):
        model, rng = LogLinear([1.0], 40, seed), np.random.default_rng(seed)
        exact = searched(model, [1.5])
        logits, newton = model.logits, Newton(np.array([1.5]), exact.lower, exact.upper, 40)
        while not newton.done:
            model.logits = logits * (1 + 0.007 * rng.normal(size=logits.shape))
            newton.learn([model.at(theta) for theta in newton.proposed])
        assert newton.converged, seed
        assert newton.best is not None
        assert exact.best is not None
        error = newton.standard_errors()[0]
        assert newton.best.theta[0] == pytest.approx(exact.best.theta[0], abs=error / 2)


def test_the_maximum_is_found_from_far_away() -> None:
    model = LogLinear([0.5, 2.0], 300, 1)
    near, far = searched(model, [0.5, 2.0]), searched(model, [-8.0, 9.0])
    assert near.best is not None
    assert far.best is not None
    assert far.best.theta == pytest.approx(near.best.theta, abs=0.02)


def test_a_far_maximum_takes_few_passes() -> None:
    newton = searched(LogLinear([12.0, -7.0], 60, 4), [0.0, 0.0])
    assert newton.best is not None
    assert newton.passes <= 8
    assert newton.best.theta[0] > 6


def test_bounds_hold() -> None:
    newton = searched(LogLinear([3.0, -1.0], 300, 2), [0.0, 0.0], bound=0.5)
    assert newton.best is not None
    assert newton.best.theta == pytest.approx([0.5, -0.5])
    assert newton.standard_errors().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("ridge", [1e-4, 0.0])
def test_what_the_examples_do_not_determine_stays_and_says_so(ridge: float) -> None:
    model = LogLinear([1.0, 0.5], 200, 3)
    model.logits = np.concatenate([model.logits, np.ones_like(model.logits[:1])])  # shifts all
    newton = searched(model, [1.0, 0.0, 0.7], ridge=ridge)
    assert newton.best is not None
    assert newton.best.theta[2] == pytest.approx(0.7)
    errors = newton.standard_errors()
    assert np.isinf(errors[2])
    assert (errors[:2] < 0.5).all()


def test_names_that_only_their_sum_determines() -> None:
    """Without a ridge their Hessian is singular."""
    model = LogLinear([0.6], 200, 5)
    model.logits = np.concatenate([model.logits, model.logits])
    newton = searched(model, [0.0, 0.0], ridge=0.0)
    alone = searched(LogLinear([0.6], 200, 5), [0.0], ridge=0.0)
    assert newton.best is not None
    assert alone.best is not None
    assert newton.best.theta.sum() == pytest.approx(alone.best.theta.sum(), abs=0.01)
    assert np.isinf(newton.standard_errors()).all()


def test_weights_of_a_mixture() -> None:
    rng = np.random.default_rng(0)
    experts = rng.dirichlet(np.full(40, 0.3), size=3)  # [K, V]
    truth = np.array([0.6, 0.3, 0.1])
    tokens = rng.choice(40, size=4000, p=truth @ experts)
    log_probs = np.log(experts[:, tokens] + 1e-300)
    weights, converged = fit_mixture(log_probs, np.full(3, 1 / 3))
    errors = mixture_errors(log_probs, weights)
    assert converged
    assert weights.sum() == pytest.approx(1)
    assert (np.abs(weights - truth) < 3 * errors).all()
    assert (errors < 0.05).all()
    best = mixture_score(log_probs, weights)
    for k in range(3):
        assert best >= mixture_score(log_probs, np.eye(3)[k] * 0.999 + 0.001 / 3)
    # Moving weight between any two experts loses.
    for k in range(3):
        moved = weights.copy()
        moved[k] += 0.02
        moved[(k + 1) % 3] -= 0.02
        assert mixture_score(log_probs, moved) < best


def test_an_expert_that_never_helps_gets_no_weight() -> None:
    log_probs = np.log(np.array([[0.5] * 50, [0.1] * 50]))
    weights, _ = fit_mixture(log_probs, np.array([0.5, 0.5]))
    assert weights == pytest.approx([1, 0], abs=1e-3)
