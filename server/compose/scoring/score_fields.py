"""Log-probabilities as responses show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

IMPOSSIBLE = -9999.0
"""Stands for the log-probability of a token that a filter drops, as in vLLM's responses: JSON has
no minus infinity."""


def score_fields(log_probs: Sequence[float]) -> dict[str, Any]:
    """Return the fields of a text whose tokens have these log-probabilities, in nats."""
    shown = [max(value, IMPOSSIBLE) for value in log_probs]
    return {
        "logprob": sum(shown),
        "token_logprobs": shown,
        "impossible": any(value <= IMPOSSIBLE for value in shown),
    }
