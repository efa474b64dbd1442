"""Mixtures whose weights change while decoding: progress, prompts and weights of each gang."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from composer.tensors.gang_rows import aligned
from composer.tensors.mixture_kernel import Turn
from composer.tensors.mixture_states import DEPTH, MixtureStates, PromptPart
from composer.vllm.execute.answer_ledger import AnswerLedger, Report
from composer.vllm.execute.batch_view import BatchView, StepRows
from composer.vllm.schedule.gang import RowTag
from composer.vllm.workarounds.lm_head_lora import lm_head_adapters

PROMPT_CHUNK = 128
"""Prompt tokens whose logits `[PROMPT_CHUNK, V]` are in memory at once."""


@dataclass(slots=True)
class _MixedGang:
    """A gang whose weights change from token to token."""

    slot: int
    size: int
    counted: list[int]  # of each row, tokens of its prompt whose likelihood is counted
    explain: bool = False
    answered: int = 0
    weights: dict[int, torch.Tensor] = field(default_factory=dict)  # by token, with `explain`


@dataclass(frozen=True, slots=True)
class _Reading:
    """A part of a prompt that the step in progress has computed."""

    part: PromptPart
    adapter: int  # lora_int_id, 0 for none
    positions: np.ndarray  # [T] int64, among the tokens of the step
    targets: np.ndarray  # [T] int64, the token that follows each of them


@dataclass(frozen=True, slots=True)
class _MixtureAccount:
    """What a report needs of a gang."""

    totals: torch.Tensor  # [DEPTH, K] float64: the sum of pi before the last tokens
    answered: int
    weights: dict[int, torch.Tensor]

    def report(self, tokens: int | None) -> Report:
        count = self.answered
        if tokens is not None and 0 < count - tokens < DEPTH:
            count = tokens
        mean = self.totals[count % DEPTH] / max(count, 1)
        explained = range(count) if self.weights else ()
        return {
            "weights": mean.tolist(),
            "tokens": [self.weights[token][: len(mean)].tolist() for token in explained],
        }


class MixtureRouting:
    """All mixtures of a worker whose weights change. Gangs go by the request ids of their
    leaders."""

    def __init__(self, device: torch.device, ledger: AnswerLedger) -> None:
        self._states = MixtureStates(device)
        self._ledger = ledger
        self._gangs: dict[str, _MixedGang] = {}
        # Rows whose prompts are not counted to the end, with the token ids of these prompts.
        self._unread: dict[str, tuple[RowTag, list[int]]] = {}

    def __bool__(self) -> bool:
        """Whether there are any: without, a step costs a look at its new requests."""
        return bool(self._gangs)

    @property
    def states(self) -> MixtureStates:
        return self._states

    def add(self, requests: Iterable[Any]) -> None:
        """Note requests that are new to the model runners; ignore all but rows of such mixtures."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.mixture is None or not tag.mixture.is_routed:
                continue
            gang = self._gangs.get(tag.gang)
            if gang is None:
                slot = self._states.take(tag.size)
                gang = self._gangs[tag.gang] = _MixedGang(slot, tag.size, [0] * tag.size)
            if tag.index == 0:
                gang.explain = tag.explain
                if tag.report_id is not None:
                    self._ledger.open(new.req_id, tag.report_id, partial(self._account, gang))
            if tag.mixture.reads_prompt:
                self._unread[new.req_id] = tag, new.prompt_token_ids

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have left the engine."""
        for request_id in finished:
            self._unread.pop(request_id, None)
            if (gang := self._gangs.pop(request_id, None)) is not None:
                self._ledger.close(request_id)
                self._states.give_back(gang.slot)

    @torch.inference_mode()
    def read_prompts(self, view: BatchView, vocabulary: int) -> None:
        """Count the likelihood of prompt tokens that a model has just computed.

        Args:
            view: the model's batch.
            vocabulary: tokens of the base model; those that a model knows beyond them do not count.
        """
        if not (self._unread and view.computing):
            return
        step = view.step
        readings = []
        for request_id in [name for name in self._unread if name in step.row_of]:
            if (reading := self._reading(step, request_id)) is not None:
                readings.append(reading)
        if not readings:
            return
        device = step.hidden_states.device
        positions, targets = (
            torch.from_numpy(np.concatenate(arrays)).to(device, non_blocking=True)
            for arrays in zip(*((r.positions, r.targets) for r in readings), strict=True)
        )
        adapters = [r.adapter for r in readings for _ in range(r.part.tokens)]
        log_probs = []
        for begin in range(0, len(adapters), PROMPT_CHUNK):
            chunk = slice(begin, begin + PROMPT_CHUNK)
            hidden = step.hidden_states.index_select(0, positions[chunk])
            with lm_head_adapters(view.runner, tuple(adapters[chunk])):
                logits = aligned(view.runner.model.compute_logits(hidden).float(), vocabulary)
            ids = targets[chunk].unsqueeze(1)
            log_probs.append(logits.log_softmax(1).gather(1, ids).squeeze(1))
        self._states.read_prompts([r.part for r in readings], torch.cat(log_probs))

    def _reading(self, step: StepRows, request_id: str) -> _Reading | None:
        """Return what the step has computed of a row's prompt and nobody has counted yet."""
        tag, prompt = self._unread[request_id]
        gang, row = self._gangs[tag.gang], step.row_of[request_id]
        counted, last = gang.counted[tag.index], step.prompt_lengths[row] - 1
        computed, first = step.computed[row], step.starts[row]
        begin, end = max(computed, counted), min(step.computed_after(row), last)
        if end == last:
            del self._unread[request_id]
        if begin >= end:
            return None  # counted before a preemption, or a prompt of one token
        assert begin == counted, "a part of a prompt was never computed"
        assert tag.mixture is not None
        gang.counted[tag.index] = end
        return _Reading(
            PromptPart(gang.slot, tag.index, end - begin, tag.mixture.forgetting),
            step.adapters[row],
            np.arange(begin, end) - computed + first,
            np.array(prompt[begin + 1 : end + 1], dtype=np.int64),
        )

    def slot(self, leader: str) -> int:
        """Return the slot of a gang's states."""
        return self._gangs[leader].slot

    def turns(self, leaders: Sequence[str], step: StepRows) -> list[Turn]:
        """Return where each gang is in the step in progress of the base model."""
        turns = []
        for leader in leaders:
            row = step.row_of[leader]
            position = max(step.computed_after(row) - step.prompt_lengths[row], 0)
            turns.append(Turn(self._gangs[leader].slot, position, not step.discarded[row]))
        return turns

    def note(self, leaders: Sequence[str], turns: Sequence[Turn], weights: torch.Tensor) -> None:
        """Remember the weights `[G, K]` of a step, one row for each leader."""
        for index, (leader, turn) in enumerate(zip(leaders, turns, strict=True)):
            if turn.sampled:
                gang = self._gangs[leader]
                gang.answered = turn.position + 1
                if gang.explain:
                    gang.weights[turn.position] = weights[index]

    def tracked(self) -> list[str]:
        """Return the request ids of gangs, and of rows with uncounted prompts."""
        return [*self._gangs, *self._unread]

    def _account(self, gang: _MixedGang) -> _MixtureAccount:
        totals = self._states.totals(gang.slot, gang.size)
        return _MixtureAccount(totals, gang.answered, gang.weights)
