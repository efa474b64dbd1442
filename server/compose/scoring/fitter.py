"""Weights that give examples the highest probability: `POST /v1/compose/fit`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from composer.errors import CompositionSchemaError, quoted
from composer.fields import BASE
from composer.fitting.affine import AffineFormula
from composer.fitting.mixture_weights import fit_mixture, mixture_errors, mixture_score
from composer.fitting.newton import UNCLEAR, Floats, Newton, Point
from composer.formula import format_sum, quote_name
from composer.plan import Limits, Member, normalize
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_fields import FIELD
from server.compose.scoring.score_bodies import FitBody, Item
from server.compose.scoring.scorer import Question, Score, Scorer
from server.compose.scoring.scoring_request import ScoringRequest
from server.engine.port import Body

SHUFFLE = 0
"""Seed of the choice of the examples that are held out."""


@dataclass(frozen=True, slots=True)
class Fitter:
    """Fits compositions for keys."""

    scorer: Scorer
    catalogue: Catalogue
    limits: Limits

    async def fit(self, body: FitBody, request: ScoringRequest) -> Body:
        """Return the answer to a request.

        Raises:
            CompositionError: the composition cannot be fitted, or not by this key.
        """
        learned, held_out = _split(body.items, body.held_out)
        if body.formula is not None:
            return await self._sum(body, body.formula, learned, held_out, request)
        assert body.experts is not None
        return await self._mixture(body.experts, learned, held_out, request)

    # ---- sums

    async def _sum(
        self,
        body: FitBody,
        text: str,
        learned: Sequence[Item],
        held_out: Sequence[Item],
        request: ScoringRequest,
    ) -> Body:
        key = request.key
        formula = AffineFormula.parse(text, self.catalogue.member_names.visible_to(key))
        names = formula.free
        formula.check_names("start", body.start)
        formula.check_names("bounds", body.bounds)
        most = self.limits.max_weight
        limits = [body.bounds.get(name, (-most, most)) for name in names]
        start = np.array([body.start.get(name, 0.0) for name in names])
        for name, (low, high), value in zip(names, limits, start, strict=True):
            if low > high:
                raise CompositionSchemaError(
                    f"the bounds of {quoted(name)} are {low:g} and {high:g}. Give the lower first.",
                    param=f"bounds.{name}",
                )
            if max(abs(low), abs(high)) > most:
                raise CompositionSchemaError(
                    f"the bounds of {quoted(name)} are {low:g} and {high:g}; weights here are "
                    f"between {-most:g} and {most:g}. Give narrower ones.",
                    param=f"bounds.{name}",
                )
            if name in body.start and not low <= value <= high:
                raise CompositionSchemaError(
                    f"the start of {quoted(name)} is {value:g}, and its bounds are {low:g} and "
                    f"{high:g}. Start between them.",
                    param=f"start.{name}",
                )
        lower, upper = np.array(limits, dtype=np.float64).T
        smallest = formula.smallest_weights(lower, upper)
        terms = zip(map(Member, formula.models), np.where(smallest < 0, -1.0, 1.0), strict=True)
        self.catalogue.access.check_plan(normalize(terms, limits=self.limits), key)
        newton: Newton | None = None
        proposed = [np.clip(start, lower, upper)]
        while True:
            scores = await self._ask(learned, formula, proposed, request, moments=True)
            if newton is None:
                tokens = sum(len(score.token_ids) for score in scores)
                newton = Newton(start, lower, upper, tokens, body.ridge)
            newton.learn([_point(formula, scores, n, t) for n, t in enumerate(proposed)])
            if newton.done or newton.passes >= body.max_passes:
                break
            proposed = newton.proposed
        assert newton.best is not None
        errors = newton.standard_errors()
        found = formula.weights(newton.best.theta)
        fitted = format_sum(zip(map(quote_name, formula.models), found.round(4), strict=True))
        request.record.formula = fitted
        points = [start, newton.best.theta]
        judged = await self._judged(formula, points, held_out or learned, request)
        return {
            "object": "fit",
            "formula": fitted,
            "weights": {
                name: _value(value, error)
                for name, value, error in zip(names, newton.best.theta, errors, strict=True)
            },
            "converged": newton.converged,
            "passes": newton.passes,
            "log_likelihood_per_token": judged,
            "judged_on": "held-out examples" if held_out else "the examples that it learned from",
            "examples": {"learned": len(learned), "held_out": len(held_out)},
            "tokens": newton.tokens,
            "warnings": [
                *_warnings(names, newton.best.theta, errors, newton.converged),
                *_beyond(formula.models, found, self.limits.max_weight),
            ],
            "request": {"model": fitted},
        }

    async def _ask(
        self,
        items: Sequence[Item],
        formula: AffineFormula,
        thetas: Sequence[Floats],
        request: ScoringRequest,
        *,
        moments: bool = False,
        members: bool = False,
    ) -> list[Score]:
        weights = tuple(
            dict(zip(formula.models, formula.weights(theta).tolist(), strict=True))
            for theta in thetas
        )
        everybody = {"members": [{"model": model, "weight": 1} for model in formula.models]}
        question = Question(members, weights, moments)
        return await self.scorer.scores(items, {FIELD: everybody}, question, request)

    async def _judged(
        self,
        formula: AffineFormula,
        thetas: Sequence[Floats],
        items: Sequence[Item],
        request: ScoringRequest,
    ) -> Body:
        """Return nats per token of the start, the fit, and every member alone."""
        scores = await self._ask(items, formula, thetas, request, members=True)
        tokens = sum(len(score.token_ids) for score in scores)

        def per_token(parts: Sequence[Sequence[float]]) -> float:
            return round(sum(map(sum, parts)) / tokens, 5)

        start, fit = (per_token([s.by_weights[n] for s in scores]) for n in range(2))
        alone = {
            model: per_token([s.by_member[k] for s in scores])
            for k, model in enumerate(scores[0].members)
        }
        return {"start": start, "fit": fit, "members": alone}

    # ---- mixtures

    async def _mixture(
        self,
        experts: Sequence[str],
        learned: Sequence[Item],
        held_out: Sequence[Item],
        request: ScoringRequest,
    ) -> Body:
        mixture = {"recipe": "mixture", "experts": list(experts), "router": "fixed"}
        question = Question(members=True)
        scores = await self.scorer.scores(learned, {FIELD: mixture}, question, request)
        models = scores[0].members
        log_probs = np.concatenate([np.array(score.by_member) for score in scores], axis=1)
        start = np.full(len(models), 1 / len(models))
        weights, converged = fit_mixture(log_probs, start)
        errors = mixture_errors(log_probs, weights)
        judges = await self.scorer.scores(held_out, {FIELD: mixture}, question, request)
        judged = np.concatenate([np.array(s.by_member) for s in judges or scores], axis=1)
        tokens = judged.shape[1]
        found = dict(zip(models, weights.round(4).tolist(), strict=True))
        return {
            "object": "fit",
            "weights": {
                name: _value(value, error)
                for name, value, error in zip(models, weights, errors, strict=True)
            },
            "converged": converged,
            "passes": 1,
            "log_likelihood_per_token": {
                "start": round(mixture_score(judged, start) / tokens, 5),
                "fit": round(mixture_score(judged, weights) / tokens, 5),
                "members": {
                    model: round(float(judged[k].mean()), 5) for k, model in enumerate(models)
                },
            },
            "judged_on": "held-out examples" if held_out else "the examples that it learned from",
            "examples": {"learned": len(learned), "held_out": len(held_out)},
            "tokens": log_probs.shape[1],
            "warnings": _warnings(models, weights, errors, converged),
            "request": {
                "model": BASE,
                FIELD: {
                    "recipe": "mixture",
                    "experts": list(models),
                    "router": {"kind": "fixed", "weights": found},
                },
            },
        }


def _split(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Return the examples to learn from, and those that are held out."""
    order = list(items)
    random.Random(SHUFFLE).shuffle(order)
    count = min(round(share * len(order)), len(order) - 1)
    return order[count:], order[:count]


def _point(formula: AffineFormula, scores: Sequence[Score], n: int, theta: Floats) -> Point:
    """Return what a pass says of the n-th values of the free names, by the chain rule."""
    places = [scores[0].members.index(model) for model in formula.models]
    gradient = np.sum([np.array(s.gradients[n]) for s in scores], axis=0)[places]
    hessian = np.sum([np.array(s.hessians[n]) for s in scores], axis=0)[np.ix_(places, places)]
    score = float(sum(sum(s.by_weights[n]) for s in scores))
    return Point(theta, score, *formula.derivatives(gradient, hessian))


def _value(value: float, error: float) -> Body:
    known = bool(np.isfinite(error))
    return {
        "value": round(float(value), 4),
        "standard_error": round(float(error), 4) if known else None,
    }


def _beyond(models: Sequence[str], weights: Floats, most: float) -> list[str]:
    """Return a warning for each model whose weight no request may have."""
    return [
        f"the weight of {quoted(model)} is {weight:.4g}, and weights here are within ±{most:g}: "
        "the server refuses the formula. Give bounds."
        for model, weight in zip(models, weights, strict=True)
        if abs(weight) > most
    ]


def _warnings(
    names: Sequence[str], values: Sequence[float] | Floats, errors: Floats, converged: bool
) -> list[str]:
    warnings = []
    if not converged:
        warnings.append(
            "the search has not converged: this is its last point. Allow more passes, or give "
            "bounds."
        )
    for name, value, error in zip(names, values, errors, strict=True):
        if error > UNCLEAR:
            size = f"{error:.2g}" if np.isfinite(error) else "infinite"
            warnings.append(
                f"the examples do not determine {quoted(name)}: its value is {value:.2g}, with a "
                f"standard error that is {size}. Give more examples, or leave it out."
            )
    return warnings
