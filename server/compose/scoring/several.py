"""Several compositions that score the same texts, in as few passes as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer.plan import Plan
from composer.prompts import RequestPrompt
from server.auth.keys import Key
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_fields import FIELD
from server.compose.scoring.score_bodies import Item
from server.compose.scoring.scorer import Question, Score, Scorer
from server.engine.port import Body


async def score_several(
    scorer: Scorer,
    catalogue: Catalogue,
    items: Sequence[Item],
    compositions: Sequence[Any],
    key: Key,
    max_members: int,
    members: bool,
) -> tuple[list[list[list[float]]], list[Score], list[Body]]:
    """Score texts under each composition.

    Sums of logits over the request's own prompt, without filters, need only their members' logits:
    one pass computes them all.

    Returns:
        `[items][compositions][tokens]`, in nats; the scores of one pass, which name the tokens and
        the members; and the plan of each composition.

    Raises:
        ComposerError: a composition cannot be computed for this key.
    """
    asked = [_ask(composition) for composition in compositions]
    plans = [_plan(ask, catalogue, key) for ask in asked]
    for plan in plans:
        catalogue.access.check_plan(plan, key)
    by_item: list[list[list[float]]] = [[[] for _ in plans] for _ in items]
    scores: list[Score] = []
    shared = [index for index, plan in enumerate(plans) if _is_simple(plan)]
    union = list(dict.fromkeys(m.model for index in shared for m in plans[index].members))
    if len(shared) < 2 or len(union) > max_members:
        shared = []
    if shared:
        everybody = {"members": [{"model": model, "weight": 1} for model in union]}
        weights = tuple(
            {m.model: w for m, w in zip(plans[i].members, plans[i].weights, strict=True)}
            for i in shared
        )
        scores = await scorer.scores(items, {FIELD: everybody}, Question(members, weights), key)
        for row, score in zip(by_item, scores, strict=True):
            for index, log_probs in zip(shared, score.by_weights, strict=True):
                row[index] = log_probs
    for index in sorted({*range(len(plans))} - {*shared}):
        scores = await scorer.scores(items, asked[index], Question(members), key)
        for row, score in zip(by_item, scores, strict=True):
            row[index] = score.log_probs
    return by_item, scores, [plan.to_dict() for plan in plans]


def _ask(composition: Any) -> Body:
    return {"model": composition} if isinstance(composition, str) else {FIELD: composition}


def _plan(ask: Body, catalogue: Catalogue, key: Key) -> Plan:
    if FIELD in ask:
        return catalogue.parse(ask[FIELD], key=key)
    return catalogue.plan_of(ask["model"], key)


def _is_simple(plan: Plan) -> bool:
    return (
        plan.mixture is None
        and not plan.filters
        and not plan.log_softmax
        and all(isinstance(member.prompt, RequestPrompt) for member in plan.members)
    )
