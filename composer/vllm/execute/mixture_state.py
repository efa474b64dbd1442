"""Mixtures in the engine: where each group is, what it has read, and which weights it had."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.functional import pad

from composer.tensors.mixture_kernel import Turn
from composer.tensors.mixture_states import DEPTH, MixtureStates, PromptPart
from composer.vllm.execute.batch import step_of
from composer.vllm.schedule.gang import RowTag
from composer.vllm.workarounds.lm_head_lora import rows_with

Report: TypeAlias = dict[str, Any]
"""`name` of the leader; `weights`, the mean of pi over the answer; `tokens`, pi of every token, if
that was asked for."""

CHUNK = 128
"""Tokens of prompts whose logits are in memory at once."""

REMEMBERED = 256
"""Reports of answers that are complete and that nobody has asked for."""


@dataclass(slots=True)
class _Entry:
    """A group whose weights change from token to token."""

    slot: int
    size: int
    read: list[int]  # tokens of the prompt that each row has counted
    report: str | None = None
    explain: bool = False
    answered: int = 0
    weights: dict[int, torch.Tensor] = field(default_factory=dict)  # by token, if to be explained


@dataclass(frozen=True, slots=True)
class _Reading:
    """A part of a prompt that a step has computed."""

    part: PromptPart
    adapter: int  # lora_int_id, 0 for none
    positions: np.ndarray  # [T] int64, among the tokens of the step
    targets: np.ndarray  # [T] int64, the token that follows each of them


@dataclass(frozen=True, slots=True)
class _Account:
    """What is left of a group for a report."""

    totals: torch.Tensor  # [DEPTH, K] float64: the sum of pi before the last tokens
    answered: int
    weights: dict[int, torch.Tensor] | None

    def report(self, tokens: int | None) -> Report:
        count = self.answered
        if tokens is not None and 0 < count - tokens < DEPTH:
            count = tokens
        mean = self.totals[count % DEPTH] / max(count, 1)
        size = len(mean)
        steps = range(count) if self.weights is not None else ()
        explained = [self.weights[step][:size].tolist() for step in steps if self.weights]
        return {"weights": mean.tolist(), "tokens": explained}


class MixtureRouting:
    """All mixtures of a worker whose weights change. Groups are named by their leaders."""

    def __init__(self, device: torch.device) -> None:
        self._states = MixtureStates(device)
        self._entries: dict[str, _Entry] = {}
        self._unread: dict[str, RowTag] = {}  # rows that have not counted all of their prompts
        self._accounts: OrderedDict[str, list[tuple[str, _Account]]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there are any: without, a step costs a look at its new requests."""
        return bool(self._entries)

    @property
    def states(self) -> MixtureStates:
        return self._states

    def add(self, requests: Iterable[Any]) -> None:
        """Requests that are new to the model runners; rows of other kinds pass."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.mixture is None or not tag.mixture.is_routed:
                continue
            entry = self._entries.get(tag.group)
            if entry is None:
                slot = self._states.take(tag.size)
                entry = self._entries[tag.group] = _Entry(slot, tag.size, [0] * tag.size)
            if tag.index == 0:
                entry.report, entry.explain = tag.report, tag.explain
            if tag.mixture.reads_prompt:
                self._unread[new.req_id] = tag

    def forget(self, finished: Iterable[str]) -> None:
        """Requests that have left the engine."""
        for name in finished:
            self._unread.pop(name, None)
            if (entry := self._entries.pop(name, None)) is not None:
                if entry.report is not None:
                    self._keep(entry.report, name, self._account(entry))
                self._states.give_back(entry.slot)

    @torch.inference_mode()
    def read_prompts(self, runner: Any, vocabulary: int) -> None:
        """Count the tokens of prompts that a model has just computed, for rows that ask for it.

        `vocabulary`: tokens of the base model; what a model knows beyond them does not count.
        """
        state, places = runner.execute_model_state, runner.input_batch.req_id_to_index
        if state is None:
            return
        readings = []
        for name in [name for name in self._unread if name in places]:
            if (reading := self._reading(runner, name)) is not None:
                readings.append(reading)
        if not readings:
            return
        device = state.hidden_states.device
        positions, targets = (
            torch.from_numpy(np.concatenate(own)).to(device, non_blocking=True)
            for own in zip(*((one.positions, one.targets) for one in readings), strict=True)
        )
        adapters = [one.adapter for one in readings for _ in range(one.part.tokens)]
        log_probs = []
        for begin in range(0, len(adapters), CHUNK):
            piece = slice(begin, begin + CHUNK)
            hidden, ids = state.hidden_states.index_select(0, positions[piece]), targets[piece]
            with rows_with(runner, tuple(adapters[piece])):
                logits = runner.model.compute_logits(hidden)[:, :vocabulary].float()
            if logits.shape[1] < vocabulary:  # an auxiliary model that knows fewer tokens
                logits = pad(logits, (0, vocabulary - logits.shape[1]), value=-math.inf)
            log_probs.append(logits.log_softmax(1).gather(1, ids.unsqueeze(1)).squeeze(1))
        self._states.read_prompts([one.part for one in readings], torch.cat(log_probs))

    def _reading(self, runner: Any, name: str) -> _Reading | None:
        """What a row of the batch has read in the step in progress and not counted yet."""
        batch, tag = runner.input_batch, self._unread[name]
        row, entry = batch.req_id_to_index[name], self._entries[tag.group]
        read = entry.read[tag.index]
        last = int(batch.num_prompt_tokens[row]) - 1
        computed = int(batch.num_computed_tokens_cpu[row])
        first, behind = runner.query_start_loc.np[row : row + 2].tolist()
        begin, end = max(computed, read), min(computed + behind - first, last)
        if end == last:
            del self._unread[name]
        if begin >= end:
            return None  # read before a preemption, or a prompt of one token
        assert begin == read, "a part of a prompt was never computed"
        assert tag.mixture is not None
        entry.read[tag.index] = end
        return _Reading(
            PromptPart(entry.slot, tag.index, end - begin, tag.mixture.forgetting),
            int(batch.request_lora_mapping[row]),
            np.arange(begin, end) - computed + first,
            batch.token_ids_cpu[row, begin + 1 : end + 1].astype(np.int64),
        )

    def turns(self, names: Sequence[str], runner: Any) -> list[Turn]:
        """Where each group is in the step in progress, from the batch of the base model."""
        batch = runner.input_batch
        computed, starts, discarded = step_of(runner)
        turns = []
        for name in names:
            row = batch.req_id_to_index[name]
            known = computed[row] + starts[row + 1] - starts[row]
            position = known - int(batch.num_prompt_tokens[row])
            turns.append(Turn(self._entries[name].slot, max(position, 0), not discarded[row]))
        return turns

    def note(self, names: Sequence[str], turns: Sequence[Turn], weights: torch.Tensor) -> None:
        """Remember the weights of a step, `[G, K]`, in the order of the names."""
        for index, (name, turn) in enumerate(zip(names, turns, strict=True)):
            if turn.sampled:
                entry = self._entries[name]
                entry.answered = turn.position + 1
                if entry.explain:
                    entry.weights[turn.position] = weights[index]

    def report(self, ticket: str, tokens: int | None = None) -> list[Report]:
        """What the answers to one request had for weights, in the order of their names; forgets it.

        `tokens`: the length of the answer, if there is one. Under async scheduling the engine may
        be one token ahead of it.
        """
        found = self._accounts.pop(ticket, [])
        for name, entry in self._entries.items():
            if entry.report == ticket:
                found.append((name, self._account(entry)))
                entry.report = None
        in_order = sorted(found, key=lambda named: named[0])
        return [{"name": name, **account.report(tokens)} for name, account in in_order]

    def left(self) -> list[str]:
        """Groups, and rows that read their prompts, that are still known."""
        return [*self._entries, *self._unread]

    def _account(self, entry: _Entry) -> _Account:
        totals = self._states.totals(entry.slot, entry.size)
        return _Account(totals, entry.answered, entry.weights if entry.explain else None)

    def _keep(self, ticket: str, name: str, account: _Account) -> None:
        self._accounts.setdefault(ticket, []).append((name, account))
        while len(self._accounts) > REMEMBERED:
            self._accounts.popitem(last=False)
