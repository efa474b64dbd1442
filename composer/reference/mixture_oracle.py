"""Mixtures of probabilities by transformers and PEFT: exact, in float64.

`p = sum_k pi_k softmax(l_k)`; `composer.engine_plan.MixtureParameters` states the formulas of `pi`.
They are evaluated directly over whole sequences: no state is carried from token to token. K
experts, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from composer.engine_plan import MixtureParameters
from composer.filters import Filter
from composer.reference.oracle import (
    Mismatch,
    Oracle,
    OracleRow,
    aligned,
    filter_mask,
    greedy_answer,
    greedy_mismatches,
    mask_tokens,
)

IMPOSSIBLE = -1e4
"""Lower bound of a log-probability as evidence: an expert that ruled a token out can recover by
forgetting."""


def mixed(
    oracle: Oracle,
    rows: Sequence[OracleRow],
    mixture: MixtureParameters,
    answer: Sequence[int],
    filters: Sequence[Filter] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mixture before and after each token of an answer.

    Args:
        oracle: the models.
        rows: the experts, with their prior as weights, which sum to one. A row with prior 0 is not
            an expert: its `pi` is 0. Row 0 is on the base model.
        mixture: how they are mixed.
        answer: token ids.
        filters: as for `Oracle.composed`, judged by an expert's own logits.

    Returns:
        `z` `[len(answer) + 1, V]` float64, `log p`; and `pi` `[len(answer) + 1, K]` float64, the
        weights of each step.
    """
    logits = [
        oracle.logits(row.adapter, [*row.prompt, *answer], row.model).double() for row in rows
    ]
    size = logits[0].shape[1]
    logits = [aligned(expert, size) for expert in logits]
    answering = [expert[len(row.prompt) - 1 :] for row, expert in zip(rows, logits, strict=True)]
    log_probs = torch.stack(answering).log_softmax(-1)  # [K, len(answer) + 1, V]
    prior = torch.tensor([row.weight for row in rows], dtype=torch.float64)
    evidence = torch.stack(
        [
            token_log_probs(
                expert, [*row.prompt, *answer], 1 if mixture.prompt else len(row.prompt)
            )
            for row, expert in zip(rows, logits, strict=True)
        ]
    )  # [K, N]
    pi = weights(prior, evidence, log_probs, mixture)  # [len(answer) + 1, K]
    z = torch.logsumexp(pi.T.log().unsqueeze(-1) + log_probs, 0)
    return mask_tokens(z, [~filter_mask(f, answering[f.member]) for f in filters]), pi


def weights(
    prior: torch.Tensor, evidence: torch.Tensor, log_probs: torch.Tensor, mixture: MixtureParameters
) -> torch.Tensor:
    """Return `pi` of every expert before each token of an answer, and after the last.

    Args:
        prior: `[K]` float64.
        evidence: `[K, N]` float64, `log p_k` of every token that counts: those of the answer last.
        log_probs: `[K, T, V]` float64, the predictions of the experts before each token of the
            answer, and after the last.
        mixture: how they are mixed.

    Returns:
        `[T, K]` float64.
    """
    count = log_probs.shape[1]
    steps = range(evidence.shape[1] - count + 1, evidence.shape[1] + 1)  # tokens seen so far
    pi = []
    for step, seen in enumerate(steps):
        pi.append(mixture.fixed * prior)
        for name, rule in RULES.items():
            weighed = rule(prior, evidence[:, :seen], log_probs[:, step], mixture)
            pi[-1] = pi[-1] + getattr(mixture, name) * weighed
    return torch.stack(pi)


def posterior_of(
    prior: torch.Tensor, evidence: torch.Tensor, _: torch.Tensor, mixture: MixtureParameters
) -> torch.Tensor:
    """Return `[K]` float64: the posterior after the tokens of evidence `[K, N]`, with its floor."""
    ages = torch.arange(evidence.shape[1] - 1, -1, -1, dtype=torch.float64)
    score = (evidence.clamp(min=IMPOSSIBLE) * mixture.forgetting**ages).sum(1)
    posterior = (prior.log() + score).softmax(0)
    experts = (prior > 0).double()
    return (1 - experts.sum() * mixture.floor) * posterior + mixture.floor * experts


def confidence_of(
    prior: torch.Tensor, _: torch.Tensor, log_probs: torch.Tensor, mixture: MixtureParameters
) -> torch.Tensor:
    """Return `[K]` float64: the prior times `exp(-H / temperature)`, of log_probs `[K, V]`."""
    entropy = torch.special.entr(log_probs.exp()).sum(-1)  # [K], nats
    confidence: torch.Tensor = (prior.log() - entropy / mixture.temperature).softmax(0)
    return confidence


Rule: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, MixtureParameters], torch.Tensor
]

RULES: Mapping[str, Rule] = {"posterior": posterior_of, "confidence": confidence_of}
"""By the field of `MixtureParameters` that holds the rule's share."""


def token_log_probs(logits: torch.Tensor, tokens: Sequence[int], first: int) -> torch.Tensor:
    """Return `[len(tokens) - first]` float64: `log p` of each token from index `first` on.

    `logits` `[len(tokens), V]` are the predictions after each token.
    """
    log_probs = logits.log_softmax(-1)
    scores = [float(log_probs[n - 1, tokens[n]]) for n in range(first, len(tokens))]
    return torch.tensor(scores, dtype=torch.float64)


def mixed_mismatches(
    oracle: Oracle,
    rows: Sequence[OracleRow],
    mixture: MixtureParameters,
    answer: Sequence[int],
    filters: Sequence[Filter] = (),
) -> list[Mismatch]:
    """Return where a greedy answer differs from the oracle's, as `Oracle.mismatches`."""
    return greedy_mismatches(mixed(oracle, rows, mixture, answer, filters)[0], answer)


def mixed_greedy(
    oracle: Oracle,
    rows: Sequence[OracleRow],
    mixture: MixtureParameters,
    max_tokens: int,
    stop: int | None = None,
) -> list[int]:
    """Return the greedy answer, by one full forward pass per token and expert."""
    return greedy_answer(lambda a: mixed(oracle, rows, mixture, a)[0], max_tokens, stop)
