"""Answers to `sweep`. Log-probabilities are natural logarithms."""

from __future__ import annotations

from clients.responses import Usage, Wire
from clients.scoring.scoring_responses import ScoredTokens


class SweptPoint(Wire):
    """The answer with one choice of weights.

    values: of the free names.
    formula: what has answered; asked as a model, it gives the same answer.
    reference: the score of the reference.
    """

    index: int
    values: dict[str, float]
    formula: str
    text: str
    finish_reason: str | None = None
    usage: Usage
    reference: ScoredTokens | None = None


class ReferenceTokens(Wire):
    """The tokens of the reference, as texts and as ids."""

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]


class SweptGrid(Wire):
    """The points in the order of the request.

    free: the free names of the formula.
    usage: the sum over the points; a reference is not counted.
    """

    formula: str
    free: tuple[str, ...]
    data: tuple[SweptPoint, ...]
    usage: Usage
    reference: ReferenceTokens | None = None
