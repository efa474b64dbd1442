"""The rules that weigh the experts of a mixture, as tensor operations.

`composer.engine_plan.MixtureParameters` gives their formulas and sources. A rule is one class here
and one entry of `RULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

Parameters: TypeAlias = Mapping[str, torch.Tensor]
"""Fields of `MixtureParameters` by name, `[G, 1]` float32 each: one row per gang."""

IMPOSSIBLE = -1e4
"""Lower bound of a log-probability in float32: an expert that ruled a token out can recover by
forgetting, and `p * log p` is 0 instead of NaN where `p` is 0."""

ENTROPY_CHUNK = 2**18
"""Chunk size, in logits, for computing entropies; each chunk needs two extra copies of itself."""


@dataclass(frozen=True, slots=True)
class RuleInput:
    """What the rules judge the G gangs of a step by; K rows each, vocabulary size V."""

    log_prior: torch.Tensor  # [G, K] float32, minus infinity for a row that is not an expert
    evidence: torch.Tensor  # [G, K] float64, the posterior's s: log-likelihood of the text so far
    log_probs: torch.Tensor  # [G, K, V] float32, log p_k of the token to sample


class Rule(Protocol):
    """Weigh the experts of every gang before each token."""

    def __init__(self, parameters: Parameters, is_expert: torch.Tensor) -> None:
        """Prepare for gangs with these parameters; is_expert `[G, K]` bool."""

    def __call__(self, step: RuleInput) -> torch.Tensor:
        """Return `[G, K]` float32: weights that sum to one in each row."""


class PosteriorRule:
    """`P_k ~ prior_k exp(s_k)`, then mixed with the floor."""

    def __init__(self, parameters: Parameters, is_expert: torch.Tensor) -> None:
        self._floor = parameters["floor"] * is_expert  # [G, K]
        self._rest = 1 - self._floor.sum(1, keepdim=True)  # [G, 1]

    def __call__(self, step: RuleInput) -> torch.Tensor:
        posterior = (step.log_prior + step.evidence).softmax(1).float()
        return torch.addcmul(self._floor, self._rest, posterior)


class ConfidenceRule:
    """`C_k ~ prior_k exp(-H(p_k) / temperature)`."""

    def __init__(self, parameters: Parameters, is_expert: torch.Tensor) -> None:
        self._temperature = parameters["temperature"]

    def __call__(self, step: RuleInput) -> torch.Tensor:
        gangs = torch.split(step.log_probs, max(1, ENTROPY_CHUNK // step.log_probs[0].numel()))
        negative_entropy = torch.cat(
            [chunk.clamp(min=IMPOSSIBLE).mul_(chunk.exp()).sum(2) for chunk in gangs]
        )  # [G, K]
        return (step.log_prior + negative_entropy / self._temperature).softmax(1)


RULES: Mapping[str, type[Rule]] = {"posterior": PosteriorRule, "confidence": ConfidenceRule}
"""By the field of `MixtureParameters` that holds the rule's share."""
