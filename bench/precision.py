"""Composed answers against plain rows of the same engine, composed outside of it.

In bfloat16 an oracle in float32 is no measure: rounding alone changes answers. So each member is
computed by vLLM as a plain request over the same tokens, and the composition is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.inprocess import InProcessEngine, Job

NEAR = 20
"""Differences are taken among so many likeliest tokens: deep in the tail, bfloat16 is all noise."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all tokens of some answers."""

    tokens: int
    equal: float
    """Share of tokens that are the likeliest of the composition computed outside."""
    worst_gap: float
    """How much less likely, in logarithms, the worst of the other tokens was."""
    mean_difference: float
    """Of log probabilities, over the `NEAR` likeliest tokens."""
    worst_difference: float


def compare(engine: InProcessEngine, jobs: Sequence[Job]) -> Agreement:
    """Greedy answers to `jobs`, which have no filters, against their rows as plain requests.

    A difference has two sources: composing, and that the plain rows read the answer as a prompt,
    in batches of another shape. Plain requests as `jobs` show the second alone.
    """
    differences, gaps = [], []
    for job in jobs:
        asking = Job(job.prompt, job.rows, (), job.adapter, job.params | {"logprobs": -1})
        [output] = engine.run([asking])
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
    """`[T, V]` float32: log probabilities of one member before each token of `answer`.

    One request per token: it is what a member would have been asked for.
    """
    params = row.params | {"max_tokens": 1, "logprobs": -1}
    asked = [
        Job((*row.prompt, *answer[:length]), adapter=row.adapter, params=params)
        for length in range(len(answer))
    ]
    return torch.cat([_tensor(output.outputs[0].logprobs) for output in engine.run(asked)])


def _tensor(positions: Any) -> torch.Tensor:
    """vLLM's log probabilities of the whole vocabulary as `[T, V]` float32."""
    return torch.tensor(
        [[shown[token].logprob for token in range(len(shown))] for shown in positions]
    )
