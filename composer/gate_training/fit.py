"""Fit a linear softmax classifier to hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

EPOCHS = 12
ITERATIONS = 10  # per epoch
DECAY = 1e-4  # weight of the squared norm in the loss


@dataclass(frozen=True, slots=True)
class Linear:
    """weight `[C, H]` float32, bias `[C]` float32."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits: `[N, H]` -> `[N, C]` float32."""
        return states @ self.weight.T + self.bias


def fit(
    states: torch.Tensor, labels: torch.Tensor, count: int, done: Callable[[int], None]
) -> Linear:
    """Fit a classifier to states `[N, H]` float32 with labels `[N]` int64 below `count`.

    All classes that occur have equal weight, however many states they have. The states are
    standardized for the fit, and the result is transformed back. Call `done` after each epoch.
    """
    mean, deviation = states.mean(0), states.std(0).clamp_min(1e-6)
    scaled = (states - mean) / deviation
    importance = 1 / torch.bincount(labels, minlength=count).clamp_min(1).float()
    weight = torch.zeros(count, states.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    # The problem is convex and the states fit into memory, so small batches have no advantage.
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(scaled @ weight.T + bias, labels, importance)
        value = value + DECAY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        for _ in range(EPOCHS):
            optimizer.step(loss)  # type: ignore[no-untyped-call]
            done(1)
    with torch.no_grad():
        unscaled = weight / deviation
        return Linear(unscaled.contiguous(), bias - unscaled @ mean)
