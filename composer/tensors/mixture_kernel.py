"""Mixtures of probabilities: `p = sum_k pi_k softmax(l_k)`.

As a row of logits: `z = logsumexp_k(log pi_k + log_softmax(l_k))`, which is `log p`. The weights
`pi` come from the rules in `composer.tensors.mixture_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from composer.engine_plan import MixtureParameters
from composer.tensors.gang_rows import GangRows, aligned, gather_rows, group_by_key
from composer.tensors.mixture_rules import IMPOSSIBLE, RULES, Rule, RuleInput
from composer.tensors.mixture_states import DEPTH, MixtureStates

ToDevice: TypeAlias = Callable[[Sequence[Any], torch.dtype], torch.Tensor]

_EMPTY = torch.empty(0)


@dataclass(frozen=True, slots=True)
class Turn:
    """One gang in one step."""

    slot: int
    """Slot of the gang's states, from 1."""

    position: int
    """Index in the answer of the token that the step samples."""

    sampled: bool = True
    """Whether the step samples a token: false until all rows have read their prompts."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of all gangs that one model computes."""

    model: int
    places: torch.Tensor  # [M] int64, indices into [G * K]
    rows: torch.Tensor  # [M] int64, rows of the model's batch


class MixtureKernel:
    """Mix the gangs of a batch. In each step call `compose`; if the weights change from token to
    token, call `prepare` before it and `update` once the token is known.

    G gangs, K the size of the largest gang, V the base's vocabulary.
    """

    def __init__(self, gangs: Sequence[GangRows], tensor: ToDevice) -> None:
        """`tensor` copies lists to the device."""
        self.names = [gang.name for gang in gangs]
        mixtures = [gang.mixture for gang in gangs if gang.mixture is not None]
        size = max(len(gang.rows) for gang in gangs)
        # Gangs advance in lock-step, so the same DEPTH pairs of places recur.
        self._places = lru_cache(DEPTH)(lambda places: tensor(places, torch.int64).unbind())
        self._prior = tensor(
            [[*gang.weights, *[0.0] * (size - len(gang.weights))] for gang in gangs], torch.float32
        )  # [G, K], 0 for a row that is not an expert
        self._log_prior = self._prior.log()
        self._constant, self._rules = self._make_rules(mixtures, tensor)
        # Decay of s and of the sum of pi from token to token: [G, 2, 1].
        self._decay = tensor([[[m.forgetting], [1.0]] for m in mixtures], torch.float64)
        # The leader of each of the K experts of each gang, in their places: [G * K].
        self._leader_of = tensor([g.rows[0] for g in gangs for _ in range(size)], torch.int64)
        self._leaders = self._leader_of[::size]
        members = [
            ((gang.model(k),), (index * size + k, gang.rows[k]))
            for index, gang in enumerate(gangs)
            for k in range(len(gang.rows))
        ]
        self._rows = [
            _Rows(model, tensor(places, torch.int64), tensor(rows, torch.int64))
            for (model,), (places, rows) in group_by_key(members)
        ]
        self._states: MixtureStates | None = None
        self._before = self._log_probs = _EMPTY  # of the step in progress
        self.weights = self._prior  # [G, K] float32: pi of the step in progress

    def _make_rules(
        self, mixtures: Sequence[MixtureParameters], tensor: ToDevice
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, Rule]]]:
        """Return the constant part of `pi`, `[G, K]` float32, and the rules that add to it, each
        with its share `[G, 1]` float32."""
        used = [rule for rule in RULES if any(getattr(m, rule) for m in mixtures)]
        names = ["fixed", *used, *(name for rule in used for name in MixtureParameters.RULES[rule])]
        numbers = [[float(getattr(m, name)) for name in names] for m in mixtures]
        columns = dict(zip(names, torch.split(tensor(numbers, torch.float32), 1, 1), strict=True))
        rules = [(columns[rule], RULES[rule](columns, self._prior > 0)) for rule in used]
        return columns["fixed"] * self._prior, rules

    def prepare(self, turns: Sequence[Turn], states: MixtureStates) -> None:
        """Look up the states of each gang before this step; turns in the order of `names`."""
        before = tuple(turn.slot * DEPTH + turn.position % DEPTH for turn in turns)
        after = tuple(
            turn.slot * DEPTH + (turn.position + 1) % DEPTH if turn.sampled else 0 for turn in turns
        )
        self._states = states
        index, self._after = self._places((before, after))
        self._before = self._trimmed(states.values).index_select(0, index)  # [G, 2, K] float64

    def compose(self, logits_of: Sequence[torch.Tensor | None], constrained: bool) -> None:
        """Write `log p` over every leader's row.

        Args:
            logits_of: the rows of each model, the base model's `[R, V]` float32 first, which is
                changed in place; see `composer.tensors.compose.Composition.compose`.
            constrained: whether a grammar applies to the batch. Tokens at minus infinity in the
                leader's row then have probability 0 under every expert, so the result is a mixture
                of experts that follow the grammar.
        """
        logits = logits_of[0]
        assert logits is not None
        log_probs = self._expert_log_probs(logits_of, constrained)  # [G, K, V]
        if self._states is not None:
            self.weights = self._weigh(log_probs)
            self._log_probs = log_probs
        mixed, *others = (log_probs + self.weights.log().unsqueeze(2)).unbind(1)
        for other in others:
            torch.logaddexp(mixed, other, out=mixed)  # [G, V]
        logits.index_copy_(0, self._leaders, mixed)

    def update(self, token_ids: torch.Tensor) -> None:
        """Add the sampled tokens, `[R, 1]` of any integer type, to the states."""
        assert self._states is not None, "update needs prepare and compose first"
        token = token_ids.index_select(0, self._leader_of).long()  # [G * K, 1]
        score = self._log_probs.flatten(0, 1).gather(1, token).view_as(self.weights)  # [G, K]
        new = torch.stack([score.clamp_(min=IMPOSSIBLE), self.weights], 1)  # [G, 2, K]
        after = torch.addcmul(new, self._decay, self._before)
        self._trimmed(self._states.values).index_copy_(0, self._after, after)
        self._states, self._log_probs = None, _EMPTY

    def _trimmed(self, values: torch.Tensor) -> torch.Tensor:
        """Return a view of `values` with the K of these gangs."""
        size = self._prior.shape[1]
        return values if values.shape[2] == size else values[:, :, :size]

    def _weigh(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return `pi` of every row, `[G, K]` float32."""
        step = RuleInput(self._log_prior, self._before[:, 0], log_probs)
        weights = self._constant
        for share, rule in self._rules:
            weights = torch.addcmul(weights, share, rule(step))
        return weights

    def _expert_log_probs(
        self, logits_of: Sequence[torch.Tensor | None], constrained: bool
    ) -> torch.Tensor:
        """Return `[G, K, V]` float32: the log-probabilities of each expert among allowed tokens.

        Tokens beyond a smaller vocabulary are minus infinity. Rows beyond the size of a gang hold
        any finite values; their weight is 0.
        """
        base = logits_of[0]
        assert base is not None
        (gangs, size), vocabulary = self._prior.shape, base.shape[1]
        [first, *others] = self._rows
        if others or len(first.rows) < gangs * size:
            logits = base.new_zeros(gangs * size, vocabulary)
            for rows in self._rows:
                expert = aligned(gather_rows(logits_of[rows.model], rows.rows), vocabulary)
                logits.index_copy_(0, rows.places, expert)
        else:  # all on the base model, and already in order
            logits = gather_rows(base, first.rows)
        logits = logits.view(gangs, size, vocabulary)
        if not constrained:
            return logits.log_softmax(2)
        forbidden = logits[:, :1] == -math.inf  # [G, 1, V] bool: row 0 is the leader's
        log_probs = logits.masked_fill_(forbidden, -math.inf).log_softmax(2)
        # All NaN if no allowed token is in an expert's vocabulary: it rules all of them out.
        return log_probs.nan_to_num_(nan=-math.inf, neginf=-math.inf)
