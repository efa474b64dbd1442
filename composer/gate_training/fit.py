"""A linear softmax classifier, fitted to hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

EPOCHS = 12
ITERATIONS = 10  # of one epoch
DECAY = 1e-4


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
    standardized for the fit, which the result makes up for. `done` is called after each epoch.
    """
    mean, deviation = states.mean(0), states.std(0).clamp_min(1e-6)
    scaled = (states - mean) / deviation
    importance = 1 / torch.bincount(labels, minlength=count).clamp_min(1).float()
    weight = torch.zeros(count, states.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    # The problem is convex and the states are in memory: nothing is gained by small batches.
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = cross_entropy(scaled @ weight.T + bias, labels, importance)
        found = found + DECAY * weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    with torch.enable_grad():
        for _ in range(EPOCHS):
            optimizer.step(loss)  # type: ignore[no-untyped-call]
            done(1)
    with torch.no_grad():
        plain = weight / deviation
        return Linear(plain.contiguous(), bias - plain @ mean)
