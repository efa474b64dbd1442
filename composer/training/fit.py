"""A linear softmax classifier, fitted to hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

EPOCHS = 12
ROWS = 512  # of one step
RATE = 1e-2
DECAY = 1e-4
SEED = 0


@dataclass(frozen=True, slots=True)
class Linear:
    """weight `[C, H]` float32, bias `[C]` float32."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """`[N, H]` -> `[N, C]`."""
        return states @ self.weight.T + self.bias


def fit(
    states: torch.Tensor, labels: torch.Tensor, count: int, done: Callable[[int], None]
) -> Linear:
    """states `[N, H]` float32, labels `[N]` int64 below `count` -> the classifier.

    All classes that occur weigh the same, however many states they have. The states are
    standardized for the fit, which the result makes up for. Repeatable for a number of threads.
    `done` is called after each epoch.
    """
    generator = torch.Generator().manual_seed(SEED)
    mean, deviation = states.mean(0), states.std(0).clamp_min(1e-6)
    frequency = torch.bincount(labels, minlength=count).clamp_min(1)
    importance = len(labels) / (frequency * int((frequency > 1).sum())).float()
    weight = torch.zeros(count, states.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(labels) // ROWS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), ROWS):
            rows = order[start : start + ROWS]
            scaled = (states[rows] - mean) / deviation
            loss = cross_entropy(scaled @ weight.T + bias, labels[rows], importance)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        done(1)
    with torch.no_grad():
        plain = weight / deviation
        return Linear(plain.contiguous(), bias - plain @ mean)
