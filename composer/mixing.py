"""Mixtures of probabilities: `p = sum_k pi_k softmax(l_k)`, and the rules that give `pi`.

As a row of logits: `z = logsumexp_k(log pi_k + log_softmax(l_k))`, which is `log p`. The formulas
of the rules and their sources stand at `composer.compiled.Mixture`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn.functional import pad

from composer.compiled import Mixture
from composer.groups import Group, picked, together

ToDevice: TypeAlias = Callable[[Sequence[Any], torch.dtype], torch.Tensor]

DEPTH = 4
"""How many states of a group are kept: the last, and those before it. Under async scheduling vLLM
may throw the newest token away and compute the step again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One group in one step."""

    slot: int
    """Where its states are kept, from 1."""

    position: int
    """Of the token that the step samples, counted from the beginning of the answer."""

    sampled: bool = True
    """Whether the step samples one. Until all rows have read their prompts it does not."""


class MixtureStates:
    """What the posterior rule remembers of each group: `s`, and the sum of all `pi` for reports.

    State `position % DEPTH` of a group is the one before that token of its answer. Slot 0 takes
    what is not to be kept.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[int] = []
        # Sums over thousands of tokens whose differences count: float64.
        self._values = torch.zeros(1, DEPTH, 2, 1, dtype=torch.float64, device=device)

    @property
    def values(self) -> torch.Tensor:
        """`[slots * DEPTH, 2, K]` float64, a view: `s` and the sum of `pi` by slot and state."""
        return self._values.flatten(0, 1)

    def take(self, size: int) -> int:
        """An empty slot for a group of `size` rows."""
        slots, _, _, width = self._values.shape
        if size > width:
            self._values = pad(self._values, (0, size - width))
        if not self._free:
            self._values = pad(self._values, (0, 0, 0, 0, 0, 0, 0, slots))
            self._free = list(range(2 * slots - 1, slots - 1, -1))
        slot = self._free.pop()
        self._values[slot] = 0
        return slot

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def read_prompt(self, slot: int, k: int, log_probs: torch.Tensor, forgetting: float) -> None:
        """Count the next tokens of the prompt that row `k` reads: `[T]` float32, each `log p_k`."""
        s = self._values[slot, 0, 0]
        count = len(log_probs)
        powers = torch.arange(count - 1, -1, -1, device=log_probs.device)
        s[k] = forgetting**count * s[k] + (forgetting ** powers.double() * log_probs).sum()

    def totals(self, slot: int, size: int) -> torch.Tensor:
        """`[DEPTH, K]` float64, a copy: the sums of `pi` over the answer before the last tokens."""
        return self._values[slot, :, 1, :size].clone()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows at one position, and of one model, of all groups that are that long."""

    k: int
    model: int
    groups: torch.Tensor  # [M] int64
    rows: torch.Tensor  # [M] int64, rows of the model's batch


class Mixing:
    """The groups of a batch that are mixed. `begin` comes before `mix` where rules are at work,
    `follow` after the token is known."""

    def __init__(self, groups: Sequence[Group], tensor: ToDevice) -> None:
        """`tensor` brings lists to the device."""
        self.names = [group.name for group in groups]
        size = max(len(group.rows) for group in groups)
        rules: list[Mixture] = [group.mixture for group in groups if group.mixture is not None]

        def column(values: Sequence[float]) -> torch.Tensor:
            return tensor(values, torch.float32).unsqueeze(1)

        def filled(weights: Sequence[float]) -> list[float]:
            return [*weights, *[0.0] * (size - len(weights))]

        self._tensor = tensor
        self._leaders = tensor([group.rows[0] for group in groups], torch.int64)
        self._prior = tensor([filled(group.weights) for group in groups], torch.float32)  # [G, K]
        self._experts = self._prior > 0  # a leader that was only added is none
        self._fixed = column([rule.fixed for rule in rules])  # [G, 1], as those that follow
        self._posterior = column([rule.posterior for rule in rules])
        self._confidence = column([rule.confidence for rule in rules])
        self._forgetting = column([rule.forgetting for rule in rules])
        self._floor = column([rule.floor for rule in rules])
        self._temperature = column([rule.temperature for rule in rules])
        self._is_routed = any(rule.is_routed for rule in rules)
        rows = [
            ((k, group.model(k)), (index, group.rows[k]))
            for index, group in enumerate(groups)
            for k in range(len(group.rows))
        ]
        self._rows = [
            _Rows(k, model, tensor(places, torch.int64), tensor(own, torch.int64))
            for (k, model), (places, own) in together(rows)
        ]
        self._states: MixtureStates | None = None
        self._log_probs: list[torch.Tensor] = []  # of the step in progress, as `_rows`
        self.weights = self._prior  # [G, K] float32: pi of the step in progress

    def begin(self, turns: Sequence[Turn], states: MixtureStates) -> None:
        """Tell where each group is, in the order of `names`."""
        before = [turn.slot * DEPTH + turn.position % DEPTH for turn in turns]
        after = [
            turn.slot * DEPTH + (turn.position + 1) % DEPTH if turn.sampled else 0 for turn in turns
        ]
        self._states = states
        self._before, self._after = self._tensor([before, after], torch.int64)

    def mix(self, logits_of: Sequence[torch.Tensor | None]) -> None:
        """Write `log p` over every leader's row.

        What is minus infinity in the leader's row (grammar, allowed tokens) has the probability 0
        in every expert: a mixture of the experts that keep to it.

        Args:
            logits_of: the rows of each model, the base model's `[R, V]` float32 first, which is
                changed in place; see `composer.kernel.Composition.compose`.
        """
        logits = logits_of[0]
        assert logits is not None
        forbidden = logits.index_select(0, self._leaders) == -math.inf  # [G, V] bool
        if self._is_routed:
            self._log_probs = [self._log_softmax(rows, logits_of, forbidden) for rows in self._rows]
            self.weights = self._weigh()
        mixed = torch.full(forbidden.shape, -math.inf, device=logits.device)
        log_weights = self.weights.log()
        for place, rows in enumerate(self._rows):
            term = (
                self._log_probs[place]
                if self._is_routed
                else self._log_softmax(rows, logits_of, forbidden)
            )
            term = term + log_weights[rows.groups, rows.k].unsqueeze(1)
            mixed[rows.groups] = torch.logaddexp(mixed[rows.groups], term)
        logits.index_copy_(0, self._leaders, mixed)

    def follow(self, token_ids: torch.Tensor) -> None:
        """Let the states know the tokens that were sampled, `[R, 1]` of any integer type."""
        if self._states is None:
            return
        states, self._states = self._states.values, None
        own = token_ids.index_select(0, self._leaders).long()  # [G, 1]
        score = torch.zeros_like(self._prior)  # [G, K]
        for rows, log_probs in zip(self._rows, self._log_probs, strict=True):
            # Kept finite, so that forgetting can heal an expert that held a token impossible.
            found = log_probs.gather(1, own[rows.groups]).squeeze(1).clamp(min=-1e4)
            score[rows.groups, rows.k] = found
        self._log_probs = []
        size = score.shape[1]
        s, total = states[self._before, 0, :size], states[self._before, 1, :size]
        states[self._after, 0, :size] = self._forgetting * s + score
        states[self._after, 1, :size] = total + self.weights

    def _weigh(self) -> torch.Tensor:
        """`[G, K]` float32: pi of every row."""
        assert self._states is not None
        size = self._prior.shape[1]
        s = self._states.values[self._before, 0, :size]
        log_prior = self._prior.log()
        posterior = (log_prior + s).softmax(1).float()
        # The floor is for experts; the share of the others grows with what it takes.
        count = self._experts.sum(1, keepdim=True)
        posterior = (1 - count * self._floor) * posterior + self._floor * self._experts
        entropy = torch.zeros_like(self._prior)
        for rows, log_probs in zip(self._rows, self._log_probs, strict=True):
            entropy[rows.groups, rows.k] = torch.special.entr(log_probs.exp()).sum(1)
        confidence = (log_prior - entropy / self._temperature).softmax(1)
        return (
            self._fixed * self._prior + self._posterior * posterior + self._confidence * confidence
        )

    @staticmethod
    def _log_softmax(
        rows: _Rows, logits_of: Sequence[torch.Tensor | None], forbidden: torch.Tensor
    ) -> torch.Tensor:
        """`[M, V]` float32: what each expert says, among the tokens that are allowed."""
        vocabulary = forbidden.shape[1]
        own = picked(logits_of[rows.model], rows.rows)[:, :vocabulary]
        if own.shape[1] < vocabulary:
            own = pad(own, (0, vocabulary - own.shape[1]), value=-math.inf)
        return own.masked_fill(forbidden[rows.groups], -math.inf).log_softmax(1)
