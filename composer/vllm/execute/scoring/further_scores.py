"""What is asked of a scored prompt beside the composition's own scores: members, other weights."""

from __future__ import annotations

import torch

from composer.vllm.execute.scoring.score_account import (
    ScoreAccount,
    divergences,
    moments,
    target_scores,
)
from composer.vllm.execute.scoring.scored_chunk import ChunkComposer, ScoredChunk


def note_further_scores(account: ScoreAccount, chunk: ScoredChunk, composer: ChunkComposer) -> None:
    """Add what the plan's `Scoring` asks of a chunk to its account; the chunk stays as it is."""
    scoring = chunk.tag.scoring
    assert scoring is not None
    if not (scoring.members or scoring.weights):
        return
    ids, members = chunk.target_ids, chunk.members()
    if scoring.members:
        account.members.append(torch.stack([target_scores(m, ids) for m in members]).cpu())
    log_p: torch.Tensor | None = None  # [C, V]
    if scoring.divergences:
        log_p = composer.composed(chunk.copy(), chunk.tag.weights).log_softmax(1)
    scores, distances, gradients, hessians = [], [], [], []
    for weights in scoring.weights:
        composed = composer.composed(chunk.copy(), weights)
        scores.append(target_scores(composed, ids))
        if log_p is not None:
            distances.append(divergences(log_p, composed))
        if scoring.moments:
            gradient, hessian = moments(composed, torch.stack(members), ids)
            gradients.append(gradient)
            hessians.append(hessian)
    if scores:
        account.weights.append(torch.stack(scores).cpu())
    if distances:
        account.divergences.append(torch.stack(distances).cpu())
    if gradients:
        account.gradients.append(torch.stack(gradients).cpu())
        account.hessians.append(torch.stack(hessians).cpu())
