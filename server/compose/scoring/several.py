"""Several compositions that score the same texts, in as few passes as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from composer.errors import CompositionError, GangTooLargeError, UnsupportedError
from composer.plan import Plan
from composer.prompts import RequestPrompt
from server.auth.keys import Key
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_fields import FIELD
from server.compose.scoring.score_bodies import Item
from server.compose.scoring.scorer import Question, Score, Scorer
from server.compose.scoring.scoring_request import ScoringRequest
from server.engine.port import Body

SAME = 1e-3
"""Difference of two log-probabilities, in nats, up to which passes have read a token alike."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One of the compositions: the fields of a request for it alone, and its plan.

    shares: whether its members' logits are all that it needs, and may be read together with those
        of other compositions.
    """

    body: Body
    plan: Plan
    shares: bool


@dataclass(frozen=True, slots=True)
class Several:
    """The scores of N texts under C compositions; T tokens of a text.

    `scores` are those of a pass, which name the tokens and, with `members`, every member of every
    pass.
    """

    log_probs: list[list[list[float]]]  # [N][C][T], in nats
    divergences: list[list[list[float]]]  # [N][C][T], in nats; [N][0] without `divergences`
    scores: list[Score]  # [N]
    plans: list[Body]  # [C]


async def score_several(
    scorer: Scorer,
    catalogue: Catalogue,
    items: Sequence[Item],
    compositions: Sequence[Any],
    request: ScoringRequest,
    max_members: int,
    *,
    members: bool = False,
    divergences: bool = False,
) -> Several:
    """Score texts under each composition.

    Sums of logits over the request's own prompt, without filters, need only their members' logits:
    one pass computes them all. `divergences` are those of the first composition from each, which
    only one pass can compute.

    Raises:
        ComposerError: a composition cannot be computed for the key of the request.
        UnsupportedError: one pass cannot compute all compositions, and must for the divergences.
    """
    asked = [_ask(*entry, catalogue, request.key) for entry in enumerate(compositions)]
    by_item: list[list[list[float]]] = [[[] for _ in asked] for _ in items]
    shared = [index for index, one in enumerate(asked) if one.shares]
    union = list(dict.fromkeys(m.model for index in shared for m in asked[index].plan.members))
    most = min(max_members, request.key.rows or max_members)
    if divergences:
        _check_one_pass(asked, union, most)
    if len(shared) < 2 or len(union) > most:
        shared = []
    distances: list[list[list[float]]] = [[] for _ in items]
    passes: list[list[Score]] = []
    if shared:
        everybody = {"members": [{"model": model, "weight": 1} for model in union]}
        weights = tuple(
            {m.model: w for m, w in zip(plan.members, plan.weights, strict=True)}
            for plan in (asked[index].plan for index in shared)
        )
        reference = weights[0] if divergences else None
        question = Question(members, weights, divergences=divergences, reference=reference)
        try:
            passes.append(await scorer.scores(items, {FIELD: everybody}, question, request))
        except GangTooLargeError:  # together; each alone may have room
            if divergences:
                raise
            shared = []
    if shared:
        distances = [score.divergences for score in passes[-1]]
        for row, score in zip(by_item, passes[-1], strict=True):
            for index, log_probs in zip(shared, score.by_weights, strict=True):
                row[index] = log_probs
    for index in sorted({*range(len(asked))} - {*shared}):
        passes.append(await scorer.scores(items, asked[index].body, Question(members), request))
        for row, score in zip(by_item, passes[-1], strict=True):
            row[index] = score.log_probs
    scores = [_with_all_members(of_item) for of_item in zip(*passes, strict=True)]
    return Several(by_item, distances, scores, [one.plan.to_dict() for one in asked])


def _ask(index: int, composition: Any, catalogue: Catalogue, key: Key) -> _Asked:
    """Read one of the compositions.

    Raises:
        ComposerError: it cannot be computed for this key.
    """
    param = f"compositions[{index}]"
    if not isinstance(composition, str):
        plan = catalogue.parse(composition, param, key)
        body, members_key = {FIELD: composition}, key
    else:
        try:
            plan = catalogue.plan_of(composition, key)
        except CompositionError as error:
            error.param = param
            raise
        body, members_key = {"model": composition}, catalogue.key_for_members(composition, key)
    if plan.mixture is None:  # which members a router asks, it decides for each text
        catalogue.access.check_plan(plan, members_key)
    may_share = all(catalogue.access.composes(member.model, key) for member in plan.members)
    return _Asked(body, plan, may_share and _is_simple(plan))


def _is_simple(plan: Plan) -> bool:
    return (
        plan.mixture is None
        and not plan.filters
        and not plan.log_softmax
        and all(isinstance(member.prompt, RequestPrompt) for member in plan.members)
    )


def _check_one_pass(asked: Sequence[_Asked], union: Sequence[str], most: int) -> None:
    """Raise `UnsupportedError` unless one pass of all members computes every composition."""
    for index, one in enumerate(asked):
        if not one.shares:
            raise UnsupportedError(
                f"compositions[{index}], {one.plan.formula()}, is not a sum of models that read "
                "the text together: divergences need compositions without mixtures, filters, "
                "log_softmax, prompts of members, and adapters that may not be composed. Leave it "
                "out, or do not ask for divergences.",
                param=f"compositions[{index}]",
            )
    if len(union) > most:
        raise UnsupportedError(
            f"the compositions have {len(union)} members together, and divergences need them in "
            f"one pass of at most {most}. Compare fewer compositions at a time.",
            param="compositions",
        )


def _with_all_members(passes: Sequence[Score]) -> Score:
    """Return the score of a text in its last pass, with the members of all passes.

    A member that several passes have read alike is listed once; one with prompts of its own may be
    listed several times.
    """
    found: list[tuple[str, list[float]]] = []
    for score in passes:
        for model, log_probs in zip(score.members, score.by_member, strict=bool(score.by_member)):
            if not any(m == model and np.allclose(log_probs, v, atol=SAME) for m, v in found):
                found.append((model, log_probs))
    return replace(
        passes[-1],
        members=tuple(model for model, _ in found),
        by_member=[log_probs for _, log_probs in found],
    )
