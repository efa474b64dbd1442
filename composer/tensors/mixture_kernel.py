"""Mixtures of probabilities: `p = sum_k pi_k softmax(l_k)`, and the rules that give `pi`.

As a row of logits: `z = logsumexp_k(log pi_k + log_softmax(l_k))`, which is `log p`. The formulas
of the rules and their sources stand at `composer.engine_plan.MixtureParameters`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.functional import pad

from composer.engine_plan import MixtureParameters
from composer.tensors.gang_rows import GangRows, picked, together

ToDevice: TypeAlias = Callable[[Sequence[Any], torch.dtype], torch.Tensor]

DEPTH = 4
"""How many states of a group are kept: the last, and those before it. Under async scheduling vLLM
may throw the newest token away and compute the step again."""

ENTROPIES = 2**18
"""How many logits entropies are computed of at once, if there are several groups: meanwhile they
need twice their memory once more."""

NOTHING = torch.empty(0)

IMPOSSIBLE = -1e4
"""Least log-probability that counts, so that forgetting can heal an expert that held a token
impossible."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One group in one step."""

    slot: int
    """Where its states are kept, from 1."""

    position: int
    """Of the token that the step samples, counted from the beginning of the answer."""

    sampled: bool = True
    """Whether the step samples one. Until all rows have read their prompts it does not."""


@dataclass(frozen=True, slots=True)
class PromptPart:
    """The next tokens of the prompt that one row of a group reads."""

    slot: int
    """Where the states of the group are kept."""

    k: int
    """Which of the group's rows it is."""

    tokens: int
    forgetting: float


class MixtureStates:
    """What the posterior rule remembers of each group: `s`, and the sum of all `pi` for reports.

    State `position % DEPTH` of a group is the one before that token of its answer. Slot 0 takes
    what is not to be kept.

    `values` are `[slots * DEPTH, 2, K]` float64: `s`, the sum of `pi`; by slot and state.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[int] = []
        # Sums over thousands of tokens whose differences count: float64.
        self.values = torch.zeros(DEPTH, 2, 1, dtype=torch.float64, device=device)

    def take(self, size: int) -> int:
        """An empty slot for a group of `size` rows."""
        states, _, width = self.values.shape
        if size > width:
            self.values = pad(self.values, (0, size - width))
        if not self._free:
            self.values = pad(self.values, (0, 0, 0, 0, 0, states))
            self._free = list(range(2 * states // DEPTH - 1, states // DEPTH - 1, -1))
        slot = self._free.pop()
        self.values[slot * DEPTH : (slot + 1) * DEPTH] = 0
        return slot

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def read_prompts(self, parts: Sequence[PromptPart], log_probs: torch.Tensor) -> None:
        """Count the next tokens of prompts: `[sum of tokens]` float32, each `log p_k`, the tokens
        of one part after those of the other. No row is in two parts."""

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self._device, non_blocking=True)

        worth = [part.forgetting ** np.arange(part.tokens - 1, -1, -1.0) for part in parts]
        part_of = np.repeat(np.arange(len(parts)), [part.tokens for part in parts])
        scores = on_device(np.concatenate(worth)) * log_probs.clamp(min=IMPOSSIBLE)
        said = torch.zeros(len(parts), dtype=torch.float64, device=self._device)
        said.index_add_(0, on_device(part_of), scores)
        kept = on_device(np.array([part.forgetting**part.tokens for part in parts]))
        first, rows = on_device(np.array([[part.slot * DEPTH, part.k] for part in parts])).T
        s = self.values[:, 0]  # [slots * DEPTH, K], a view
        s[first, rows] = kept * s[first, rows] + said

    def totals(self, slot: int, size: int) -> torch.Tensor:
        """`[DEPTH, K]` float64, a copy: the sums of `pi` over the answer before the last tokens."""
        return self.values[slot * DEPTH : (slot + 1) * DEPTH, 1, :size].clone()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of all groups that one model computes."""

    model: int
    places: torch.Tensor  # [M] int64, of `[G * K]`
    rows: torch.Tensor  # [M] int64, rows of the model's batch


class MixtureKernel:
    """The groups of a batch that are mixed. `begin` comes before `mix` where rules are at work,
    `follow` after the token is known."""

    def __init__(self, groups: Sequence[GangRows], tensor: ToDevice) -> None:
        """`tensor` brings lists to the device."""
        self.names = [group.name for group in groups]
        size = max(len(group.rows) for group in groups)
        # Groups advance in lock-step, so the same DEPTH places come again and again.
        self._places = lru_cache(DEPTH)(lambda places: tensor(places, torch.int64).unbind())
        rules: list[MixtureParameters] = [
            group.mixture for group in groups if group.mixture is not None
        ]
        self._has_posterior = any(rule.posterior for rule in rules)
        self._has_confidence = any(rule.confidence for rule in rules)
        numbers = []
        for group, rule in zip(groups, rules, strict=True):
            prior = [*group.weights, *[0.0] * (size - len(group.weights))]
            floors = [rule.floor * (weight > 0) for weight in prior]  # not of an added leader
            # What the fixed rule and the floor of the posterior add to pi never changes.
            constant = [
                rule.fixed * weight + rule.posterior * floor
                for weight, floor in zip(prior, floors, strict=True)
            ]
            posterior = rule.posterior * (1 - sum(floors))
            numbers.append([*prior, *constant, posterior, rule.confidence, rule.temperature])
        # [G, K] twice, and [G, 1] three times.
        self._prior, self._constant, self._posterior, self._confidence, self._temperature = (
            torch.split(tensor(numbers, torch.float32), [size, size, 1, 1, 1], 1)
        )
        self._log_prior = self._prior.log()
        # What of s and of the sum of pi is kept: [G, 2, 1].
        self._kept = tensor([[[rule.forgetting], [1.0]] for rule in rules], torch.float64)
        # The leader of each of the K experts of each group, in their places: [G * K].
        self._leader_of = tensor([g.rows[0] for g in groups for _ in range(size)], torch.int64)
        self._leaders = self._leader_of[::size]
        members = [
            ((group.model(k),), (index * size + k, group.rows[k]))
            for index, group in enumerate(groups)
            for k in range(len(group.rows))
        ]
        self._rows = [
            _Rows(model, tensor(own, torch.int64), tensor(rows, torch.int64))
            for (model,), (own, rows) in together(members)
        ]
        self._states: MixtureStates | None = None
        self._now = self._said = NOTHING  # states and log p_k of the step in progress
        self.weights = self._prior  # [G, K] float32: pi of the step in progress

    def begin(self, turns: Sequence[Turn], states: MixtureStates) -> None:
        """Tell where each group is, in the order of `names`."""
        before = tuple(turn.slot * DEPTH + turn.position % DEPTH for turn in turns)
        after = tuple(
            turn.slot * DEPTH + (turn.position + 1) % DEPTH if turn.sampled else 0 for turn in turns
        )
        self._states = states
        index, self._after = self._places((before, after))
        self._now = self._cut(states.values).index_select(0, index)  # [G, 2, K]

    def mix(self, logits_of: Sequence[torch.Tensor | None], constrained: bool) -> None:
        """Write `log p` over every leader's row.

        Args:
            logits_of: the rows of each model, the base model's `[R, V]` float32 first, which is
                changed in place; see `composer.tensors.compose.Composition.compose`.
            constrained: whether there is a grammar in the batch. What is minus infinity in the
                leader's row then has the probability 0 in every expert: a mixture of the experts
                that keep to it.
        """
        logits = logits_of[0]
        assert logits is not None
        log_probs = self._log_probs(logits_of, constrained)  # [G, K, V]
        if self._states is not None:
            self.weights = self._weigh(log_probs)
            self._said = log_probs
        mixed, *others = (log_probs + self.weights.log().unsqueeze(2)).unbind(1)
        for other in others:
            torch.logaddexp(mixed, other, out=mixed)  # [G, V]
        logits.index_copy_(0, self._leaders, mixed)

    def follow(self, token_ids: torch.Tensor) -> None:
        """Let the states know the tokens that were sampled, `[R, 1]` of any integer type."""
        assert self._states is not None, "no step has begun"
        token = token_ids.index_select(0, self._leader_of).long()  # [G * K, 1]
        score = self._said.flatten(0, 1).gather(1, token).view_as(self.weights)  # [G, K]
        new = torch.stack([score.clamp_(min=IMPOSSIBLE), self.weights], 1)  # [G, 2, K]
        after = torch.addcmul(new, self._kept, self._now)
        self._cut(self._states.values).index_copy_(0, self._after, after)
        self._states, self._said = None, NOTHING

    def _cut(self, values: torch.Tensor) -> torch.Tensor:
        """States of as many rows as the groups here have, a view."""
        size = self._prior.shape[1]
        return values if values.shape[2] == size else values[:, :, :size]

    def _weigh(self, log_probs: torch.Tensor) -> torch.Tensor:
        """`[G, K]` float32: pi of every row."""
        weights = self._constant
        if self._has_posterior:
            posterior = (self._log_prior + self._now[:, 0]).softmax(1).float()
            weights = torch.addcmul(weights, self._posterior, posterior)
        if self._has_confidence:
            # Minus the entropy of every expert. Not minus infinity, which would be NaN times its
            # probability.
            groups = torch.split(log_probs, max(1, ENTROPIES // log_probs[0].numel()))
            negative = [own.clamp(min=IMPOSSIBLE).mul_(own.exp()).sum(2) for own in groups]
            confidence = (self._log_prior + torch.cat(negative) / self._temperature).softmax(1)
            weights = torch.addcmul(weights, self._confidence, confidence)
        return weights

    def _log_probs(
        self, logits_of: Sequence[torch.Tensor | None], constrained: bool
    ) -> torch.Tensor:
        """`[G, K, V]` float32: what each expert says, among the tokens that are allowed.

        What a smaller vocabulary lacks is minus infinity; where a group is shorter than K, anything
        finite stands, which has no weight.
        """
        base = logits_of[0]
        assert base is not None
        (groups, size), vocabulary = self._prior.shape, base.shape[1]
        [first, *others] = self._rows
        if others or len(first.rows) < groups * size:
            found = base.new_zeros(groups * size, vocabulary)
            for rows in self._rows:
                own = picked(logits_of[rows.model], rows.rows)[:, :vocabulary]
                if own.shape[1] < vocabulary:
                    own = pad(own, (0, vocabulary - own.shape[1]), value=-math.inf)
                found.index_copy_(0, rows.places, own)
        else:  # all of the base model, and in their places
            found = picked(base, first.rows)
        found = found.view(groups, size, vocabulary)
        if not constrained:
            return found.log_softmax(2)
        forbidden = found[:, :1] == -math.inf  # [G, 1, V]: row 0 is the leader's
        log_probs = found.masked_fill_(forbidden, -math.inf).log_softmax(2)
        # An expert that knows none of the tokens that are allowed finds all of them impossible.
        return log_probs.nan_to_num_(nan=-math.inf, neginf=-math.inf)
