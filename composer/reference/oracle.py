"""Composed logits by transformers and PEFT.

No KV cache is used, unless adapters take turns on one sequence, whose logits depend on the cache.
In shapes, T is a number of tokens, V the base's vocabulary size, v a member's, H the hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, DynamicCache

from composer.filters import Filter, FilterKind
from composer.reference.peft_adapters import AdaptedModel

TIE = 1e-3
"""Two tokens whose composed logits are closer than this may be confused, because the engine adds in
another order."""

Weights: TypeAlias = tuple[str | Path, Mapping[str, str | Path]]
"""Path of a model, and paths of its adapters by name."""


@dataclass(frozen=True, slots=True)
class OracleRow:
    """A member: weight, name of its adapter (None: the model alone), prompt token ids, and name of
    the auxiliary model that computes it (None: the base)."""

    weight: float
    adapter: str | None
    prompt: tuple[int, ...]
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A token that the oracle would not have chosen; `gap` is the advantage, in logits, of the
    token `expected`."""

    position: int
    token: int
    expected: int
    gap: float


class Oracle:
    """A base model, auxiliary models, and the adapters of each, in float32."""

    def __init__(
        self,
        base: str | Path,
        adapters: Mapping[str, str | Path],
        auxiliaries: Mapping[str, Weights] | None = None,
    ) -> None:
        self._models: dict[str | None, AdaptedModel] = {None: _load(base, adapters)}
        for name, (path, of_model) in (auxiliaries or {}).items():
            self._models[name] = _load(path, of_model)

    @torch.inference_mode()
    def logits(
        self, adapter: str | None, tokens: Sequence[int], model: str | None = None
    ) -> torch.Tensor:
        """Return `[T, v]` float32: the logits of one member after each of `tokens`."""
        member = self._using(adapter, model)
        logits: torch.Tensor = member(torch.tensor([list(tokens)])).logits[0]
        return logits.float()

    def stream(self) -> Stream:
        """Return an empty sequence on the base model whose adapter may change between tokens."""
        return Stream(self._using)

    def switched(
        self, prompt: Sequence[int], answer: Sequence[int], choices: Sequence[str | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one sequence on one KV cache, each token with its own adapter.

        Args:
            prompt: token ids.
            answer: token ids.
            choices: `[len(prompt) + len(answer)]`: the adapter that computes each position, None
                for the model alone.

        Returns:
            logits `[len(answer) + 1, V]` float32, before and after each token of the answer, and
            the last hidden states `[len(prompt) + len(answer), H]` float32, the input of `lm_head`.
        """
        stream = self.stream()
        tokens = [*prompt, *answer]
        runs = []
        for adapter, run in groupby(zip(choices, tokens, strict=True), key=lambda pair: pair[0]):
            runs.append(stream.read(adapter, [token for _, token in run]))
        logits, hidden = (torch.cat(tensors) for tensors in zip(*runs, strict=True))
        return logits[len(prompt) - 1 :], hidden

    def _using(self, adapter: str | None, model: str | None = None) -> Any:
        """Return a model that computes with one of its adapters, or with none."""
        return self._models[model].using(adapter)

    def composed(
        self,
        rows: Sequence[OracleRow],
        filters: Sequence[Filter],
        answer: Sequence[int],
        log_softmax: bool = False,
    ) -> torch.Tensor:
        """Return `[len(answer) + 1, V]` float32: the composed logits before and after each token of
        the answer.

        `z = sum_k w_k l_k`; with `log_softmax`, l_k are log-probabilities. Tokens that a filter
        drops, or that are not in the vocabulary of a member, are minus infinity, unless that leaves
        no token. Row 0 is on the base model.
        """
        members = [
            self.logits(row.adapter, [*row.prompt, *answer], row.model)[len(row.prompt) - 1 :]
            for row in rows
        ]
        size = members[0].shape[1]
        members = [aligned(member, size) for member in members]
        if log_softmax:
            members = [member.log_softmax(-1) for member in members]
        terms = [
            row.weight * member.masked_fill(member == -math.inf, 0.0)
            for row, member in zip(rows, members, strict=True)
        ]
        for f in filters:
            if f.kind is FilterKind.SOFT_TOP_K:
                mask = filter_mask(f, members[f.member])
                terms = [t if k == f.member else centred(t, mask) for k, t in enumerate(terms)]
        dropping = [f for f in filters if f.kind is not FilterKind.SOFT_TOP_K]
        unknown = torch.stack(members).isneginf().any(0)
        dropped = [~filter_mask(f, members[f.member]) for f in dropping]
        return mask_tokens(torch.stack(terms).sum(0), [unknown, *dropped])

    def mismatches(
        self, rows: Sequence[OracleRow], filters: Sequence[Filter], answer: Sequence[int]
    ) -> list[Mismatch]:
        """Return where a greedy answer differs from the oracle's, given the answer's own prefix.

        Include near-ties (`TIE`) with their gap: the caller counts them.
        """
        return greedy_mismatches(self.composed(rows, filters, answer), answer)

    def greedy(
        self,
        rows: Sequence[OracleRow],
        filters: Sequence[Filter],
        max_tokens: int,
        stop: int | None = None,
    ) -> list[int]:
        """Return the greedy answer, by one full forward pass per token and member."""
        return greedy_answer(lambda a: self.composed(rows, filters, a), max_tokens, stop)


class Stream:
    """A sequence read in pieces on one KV cache, each piece with its own adapter."""

    def __init__(self, using: Callable[[str | None], Any]) -> None:
        self._using = using
        self._cache = DynamicCache()

    @torch.inference_mode()
    def read(self, adapter: str | None, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits `[T, V]` and last hidden states `[T, H]`, float32, after each of `tokens`.

        Their keys and values stay in the cache as computed with this adapter.
        """
        out = self._using(adapter)(
            torch.tensor([list(tokens)]),
            past_key_values=self._cache,
            use_cache=True,
            output_hidden_states=True,
        )
        return out.logits[0].float(), out.hidden_states[-1][0].float()


def greedy_answer(
    logits: Callable[[list[int]], torch.Tensor], max_tokens: int, stop: int | None = None
) -> list[int]:
    """Return the greedy answer to `logits`, which maps an answer of T tokens to `[T + 1, V]`: the
    logits before and after each of them. End after the token `stop`."""
    answer: list[int] = []
    while len(answer) < max_tokens and (not answer or answer[-1] != stop):
        answer.append(int(logits(answer)[-1].argmax()))
    return answer


def greedy_mismatches(z: torch.Tensor, answer: Sequence[int]) -> list[Mismatch]:
    """Return where a greedy answer is not the maximum of `z` `[len(answer) + 1, V]`."""
    mismatches = []
    for position, token in enumerate(answer):
        expected = int(z[position].argmax())
        if token != expected:
            gap = float(z[position, expected] - z[position, token])
            mismatches.append(Mismatch(position, token, expected, gap))
    return mismatches


def mask_tokens(z: torch.Tensor, dropped: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return `z` `[T, V]` with minus infinity where one of `dropped`, `[T, V]` bool each, is true.
    Leave a row unchanged if no token of it would remain."""
    gone = torch.stack([torch.zeros_like(z, dtype=torch.bool), *dropped]).any(0)
    gone &= ~(gone | z.isneginf()).all(-1, keepdim=True)
    return z.masked_fill(gone, -math.inf)


def _load(path: str | Path, adapters: Mapping[str, str | Path]) -> AdaptedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return AdaptedModel(model, adapters)


def aligned(logits: torch.Tensor, size: int) -> torch.Tensor:
    """Cut logits, or pad them with minus infinity, to a vocabulary: `[T, v]` -> `[T, size]`."""
    return pad(logits, (0, size - logits.shape[1]), value=-math.inf)


def centred(term: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return a term `[T, V]` less its mean over the tokens `chosen` `[T, V]` bool, and 0 elsewhere.

    As `VASLogitsProcessor` (vas_trainer.py of idanshen/Value-Augmented-Sampling) adds values.
    """
    rows = [
        torch.where(row, values - values[row].mean(), 0.0)
        for values, row in zip(term, chosen, strict=True)
    ]
    return torch.stack(rows)


def filter_mask(f: Filter, logits: torch.Tensor) -> torch.Tensor:
    """Return `[T, V]` bool: the tokens that a filter keeps, from its member's logits `[T, V]`.

    Plausibility: Li et al. 2022, section 3.2. Top-p: as `top_k_top_p_filtering`, which
    alisawuffles/DExperts applies to the base (generation/dexperts_generation.py): the first token
    that reaches the mass is kept.
    """
    if f.kind is FilterKind.PLAUSIBILITY:
        return logits >= logits.max(dim=-1, keepdim=True).values + math.log(f.value)
    if f.kind in (FilterKind.TOP_K, FilterKind.SOFT_TOP_K):
        return logits >= logits.topk(min(int(f.value), logits.shape[-1])).values[..., -1:]
    probs, order = logits.softmax(-1).sort(dim=-1, descending=True)
    before = probs.cumsum(-1) - probs
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < f.value)
