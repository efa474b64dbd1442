"""Compare composed answers with plain rows of the same engine, composed outside the engine.

In bfloat16 rounding alone changes answers, so a float32 oracle cannot judge them. Instead vLLM
computes each member as a plain request over the same tokens, and this module composes the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.inprocess import InProcessEngine, Job

NEAR = 20
"""Number of likeliest tokens to compare: deeper in the tail, bfloat16 is only noise."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Differences over all tokens of a list of answers."""

    tokens: int
    equal: float
    """Share of tokens that are the likeliest under the composition computed outside."""
    worst_gap: float
    """Largest gap in log-probability between the likeliest token and the answer's token."""
    mean_difference: float
    """Mean absolute difference of log-probabilities over the `NEAR` likeliest tokens."""
    worst_difference: float


def compare(engine: InProcessEngine, jobs: Sequence[Job]) -> Agreement:
    """Compare greedy answers to `jobs`, which must not have filters, with their plain rows.

    Differences come from composing, and from plain rows reading the answer as a prompt in batches
    of another shape. Passing plain requests as `jobs` measures the second source alone.
    """
    differences, gaps = [], []
    for job in jobs:
        request = Job(job.prompt, job.rows, (), job.adapter, job.params | {"logprobs": -1})
        [output] = engine.run([request])
        answer = list(output.outputs[0].token_ids)
        shown = _tensor(output.outputs[0].logprobs)  # [T, V]
        weights = [row.weight for row in job.rows] if job.rows else [1.0]
        plain = [_plain(engine, row, answer) for row in job.separate()]
        expected = sum(
            (w * row for w, row in zip(weights, plain, strict=True)), start=torch.zeros(())
        ).log_softmax(-1)
        best = expected.max(-1).values
        gaps.append(best - expected.gather(1, torch.tensor(answer).unsqueeze(1)).squeeze(1))
        near = expected.topk(NEAR, dim=-1).indices
        differences.append((shown.gather(1, near) - expected.gather(1, near)).abs())
    gap, difference = torch.cat(gaps), torch.cat(differences)
    return Agreement(
        tokens=len(gap),
        equal=float((gap == 0).float().mean()),
        worst_gap=float(gap.max()),
        mean_difference=float(difference.mean()),
        worst_difference=float(difference.max()),
    )


def _plain(engine: InProcessEngine, row: Job, answer: Sequence[int]) -> torch.Tensor:
    """Return one member's log-probabilities [T, V] f32 before each token of `answer`.

    Each token is a request of its own, as decoding would have asked the member.
    """
    params = row.params | {"max_tokens": 1, "logprobs": -1}
    requests = [
        Job((*row.prompt, *answer[:length]), adapter=row.adapter, params=params)
        for length in range(len(answer))
    ]
    return torch.cat([_tensor(output.outputs[0].logprobs) for output in engine.run(requests)])


def _tensor(positions: Any) -> torch.Tensor:
    """Return vLLM's log-probabilities of the whole vocabulary as [T, V] f32."""
    return torch.tensor(
        [[shown[token].logprob for token in range(len(shown))] for shown in positions]
    )
