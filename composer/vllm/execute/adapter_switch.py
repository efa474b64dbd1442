"""One row, many adapters: a router chooses the adapter of every next token while decoding.

vLLM's LoRA kernels take the adapter of every token of a step; that a request has one adapter is
bookkeeping. `Switches.choose` replaces that bookkeeping for the rows that switch. Such a row keeps
one KV cache, as in MeteoRA (Xu et al. 2024, section 3), and remembers which adapter computed which
token, so that a preempted row is computed again as it was.

What the next choice depends on is computed on the device, beside the sampler, and read on the host
when the next step is prepared, where the choice is made: only a step with such rows waits for the
step before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from vllm.lora.request import LoRARequest

from composer.engine_plan import Switch
from composer.vllm.execute.answer_ledger import AnswerLedger, Report
from composer.vllm.execute.batch_view import BatchView, LoRAInputs
from composer.vllm.schedule.gang import RowTag, lora_request
from composer.vllm.step_failures import agreed

MAX_MATRICES = 256
"""How many choices of classes keep their matrices."""


@dataclass(slots=True)
class _SwitchingRow:
    """A request that switches. Candidates are named by their index."""

    switch: Switch
    ids: list[int]  # lora_int_id of each candidate, 0 for the base
    requests: list[LoRARequest]
    prompt_tokens: int  # without those that are scored as an answer
    scored: int
    triggers: frozenset[int]
    matrix: tuple[torch.Tensor, torch.Tensor] | None = None  # of its gate, as `Switches._matrix`
    chosen: dict[int, int] = field(default_factory=dict)  # position -> candidate, from then on
    answered: int = 0

    def candidate_at(self, position: int) -> int:
        """Return the candidate that computes the token at a position."""
        return self.chosen.get(position, self.switch.start)

    def choose(self, position: int, inputs: Sequence[float]) -> None:
        """Choose the candidate for a position.

        Args:
            position: from the beginning of the prompt.
            inputs: `[1]`, the id of the token there; with a gate `[K]`, its logits at the token
                before.
        """
        now = self.candidate_at(position - 1)
        if self.switch.gate is None:
            hands_over = inputs[0] in self.triggers and now + 1 < len(self.ids)
            self.chosen[position] = now + 1 if hands_over else now
        else:
            largest = max(inputs)
            stays = largest <= inputs[now] + self.switch.stickiness
            self.chosen[position] = now if stays else inputs.index(largest)

    def follow(self, text: Sequence[int]) -> None:
        """With triggers, choose for all tokens of a text that is scored as an answer."""
        for position, token in enumerate(text, start=self.prompt_tokens):
            self.choose(position, [token])

    def candidates_between(self, begin: int, end: int) -> list[int]:
        """Return the candidate for each of these positions, `[end - begin]`."""
        return [self.candidate_at(position) for position in range(begin, end)]

    def adapters_between(self, begin: int, end: int) -> list[int]:
        """Return the lora_int_id for each of these positions, `[end - begin]`."""
        return [self.ids[candidate] for candidate in self.candidates_between(begin, end)]

    def used(self) -> list[int]:
        """Return the candidate that computed each token of the answer."""
        first = self.prompt_tokens + self.scored - 1
        return self.candidates_between(first, first + self.answered)

    def report(self, tokens: int | None) -> Report:
        """Return the share of the tokens that each candidate computed, and the candidate of every
        token."""
        count = self.answered if tokens is None else min(self.answered, tokens)
        used = self.used()[:count]
        shares = [used.count(candidate) / max(count, 1) for candidate in range(len(self.ids))]
        return {"weights": shares, "tokens": used}


_Deciding: TypeAlias = tuple[int, _SwitchingRow, int]
"""A row of the batch, its state, and the position that it chooses a candidate for."""

_GateClasses: TypeAlias = tuple[str, tuple[int, ...]]
"""A gate's file, and the class of each candidate."""


class Switches:
    """All rows of a worker that switch, by request id."""

    def __init__(self, runner: Any, ledger: AnswerLedger) -> None:
        self._device: torch.device = runner.device
        self._hidden_size: int = runner.model_config.get_hidden_size()
        self._ledger = ledger
        self._rows: dict[str, _SwitchingRow] = {}
        self._gates: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # weight [C, H], bias [C]
        self._matrices: dict[_GateClasses, tuple[torch.Tensor, torch.Tensor]] = {}
        # Choices of the last step, and their inputs [R, 1] or [R, K] on their way to the host
        self._choices: list[tuple[list[_Deciding], torch.Tensor]] = []
        self._ready: torch.Event | None = None  # when these are on the host
        self._failed: dict[str, str] = {}  # request ids whose gate cannot be used, and why

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._rows)

    # ---- life of a row

    def add(self, requests: Iterable[Any]) -> None:
        """Note requests that are new to the model runner; ignore those that do not switch."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.switch is None:
                continue
            if (row := self._rows.get(new.req_id)) is None:  # else it was preempted
                row = self._rows[new.req_id] = _SwitchingRow(
                    tag.switch,
                    [c.id if c is not None else 0 for c in tag.switch.candidates],
                    [lora_request(c) for c in tag.switch.candidates if c is not None],
                    len(new.prompt_token_ids) - tag.scored,
                    tag.scored,
                    frozenset(tag.switch.triggers),
                )
                if tag.switch.gate is None:
                    row.follow(new.prompt_token_ids[row.prompt_tokens :])
                if tag.report_id is not None:
                    self._ledger.open(new.req_id, tag.report_id, partial(self._settled, row))
            if tag.switch.gate is not None and row.matrix is None:
                self._try_gate(new.req_id)

    def _try_gate(self, request_id: str) -> None:
        """Read the gate of a new row before the step needs it: there a missing file would end the
        engine. All workers read it, and agree on whether they could."""
        row, problems = self._rows[request_id], {}
        path, classes = row.switch.gate, row.switch.classes
        assert path is not None
        try:
            row.matrix = self._matrix(path, classes)
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            problems[0] = f"the gate {path} cannot be used: {error}"
        if problem := agreed(problems).get(0):
            row.matrix = None
            self._failed[request_id] = problem

    def take_failed(self) -> dict[str, str]:
        """Return the requests whose gate could not be used, and why. Call it after every step."""
        failed, self._failed = self._failed, {}
        return failed

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have left the engine."""
        if not self._rows:
            return
        for request_id in self._rows.keys() & set(finished):
            self._settle()
            self._ledger.close(request_id)
            del self._rows[request_id]

    def adapters_in_use(self) -> set[int]:
        """Return the lora_int_id of every candidate of every row."""
        return {request.lora_int_id for row in self._rows.values() for request in row.requests}

    def choices(self, request_id: str) -> Callable[[], list[int]]:
        """Return what returns the candidate of every token of an answer up to the time of its
        call."""
        row = self._rows[request_id]
        return lambda: self._settled(row).used()

    def tracked(self) -> list[str]:
        """Return the request ids of the rows."""
        return list(self._rows)

    # ---- one step

    def candidates(self, request_ids: Iterable[str]) -> set[LoRARequest]:
        """See `AdapterChoice`."""
        if not self._rows:
            return set()
        present = (self._rows[name] for name in request_ids if name in self._rows)
        return {request for row in present for request in row.requests}

    def choose(
        self,
        request_ids: Sequence[str],
        computed: np.ndarray,
        scheduled: np.ndarray,
        inputs: LoRAInputs,
    ) -> LoRAInputs:
        """See `AdapterChoice`."""
        self._settle()
        sampled, tokens, adapters = list(inputs[0]), list(inputs[1]), inputs[2]
        ends = scheduled.cumsum().tolist()
        for index, request_id in enumerate(request_ids):
            if (row := self._rows.get(request_id)) is None:
                continue
            first, count = int(computed[index]), int(scheduled[index])
            ids = row.adapters_between(first, first + count)
            tokens[ends[index] - count : ends[index]] = ids
            sampled[index] = ids[-1]  # one token per row: there is no speculative decoding here
        return tuple(sampled), tuple(tokens), adapters

    def follow(self, view: BatchView, token_ids: torch.Tensor) -> None:
        """After sampling, prepare the choice for the next token of every row that switches.

        Args:
            view: the base model's batch.
            token_ids: `[R, 1]`, the sampled tokens.
        """
        step = view.step
        by_gate: dict[_GateClasses | None, list[_Deciding]] = {}
        for index, tag in view.tags.by_row.items():
            if tag.switch is None:
                continue
            row = self._rows[tag.gang]
            position = step.computed_after(index)
            if not step.discarded[index]:
                row.answered = position - row.prompt_tokens - row.scored + 1
            elif (
                tag.switch.gate is None
                or position < row.prompt_tokens - 1
                or position in row.chosen
            ):
                continue  # still reading, or chosen before a preemption
            gate = None
            if tag.switch.gate is not None:
                if row.matrix is None:
                    continue  # the gate failed, and nothing of this row is sent
                gate = (tag.switch.gate, tag.switch.classes)
            by_gate.setdefault(gate, []).append((index, row, position))
        if not by_gate:
            return
        self._settle()
        for gate, deciding in by_gate.items():
            inputs = token_ids
            if gate is not None:  # for all rows: that costs less than selecting those that switch
                matrix = deciding[0][1].matrix
                assert matrix is not None
                weight, bias = matrix
                inputs = torch.addmm(bias, step.last_hidden_states.float(), weight)
            self._choices.append((deciding, self._to_host(inputs)))
        if token_ids.is_cuda:
            self._ready = torch.Event(token_ids.device)
            self._ready.record()

    def _matrix(self, path: str, classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `weight` `[H, K]` and `bias` `[K]`, float32, of candidates with these classes."""
        key = (path, classes)
        if key not in self._matrices:
            if len(self._matrices) >= MAX_MATRICES:
                self._matrices.clear()
            weight, bias = self.gate(path)
            rows = list(classes)
            self._matrices[key] = weight[rows].T.contiguous(), bias[rows]
        return self._matrices[key]

    @staticmethod
    def _to_host(values: torch.Tensor) -> torch.Tensor:
        """Copy without waiting for the device: see `_ready`."""
        if not values.is_cuda:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)

    def _settle(self) -> None:
        """Make the choices that the last step with such rows has prepared."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = None
        for deciding, inputs in self._choices:
            values = inputs.tolist()
            for index, row, position in deciding:
                row.choose(position, values[index])
        self._choices.clear()

    def _settled(self, row: _SwitchingRow) -> _SwitchingRow:
        """Return a row whose choices are all made: its account."""
        self._settle()
        return row

    # ---- scored prompts

    def candidates_between(self, request_id: str, begin: int, end: int) -> list[int]:
        """Return the candidate that computes each of these positions of a row, `[end - begin]`."""
        return self._rows[request_id].candidates_between(begin, end)

    def adapters_between(self, request_id: str, begin: int, end: int) -> list[int]:
        """Return the lora_int_id for each of these positions of a row, 0 for none."""
        return self._rows[request_id].adapters_between(begin, end)

    # ---- gates

    def gate(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `weight` `[C, H]` and `bias` `[C]`, float32; read the file once.

        Raises:
            ValueError: the gate is for another hidden size.
        """
        if path not in self._gates:
            tensors = load_file(path, device=str(self._device))
            weight, bias = tensors["weight"].float(), tensors["bias"].float()
            if weight.shape[1] != self._hidden_size:
                raise ValueError(
                    f"the gate {path} is for hidden states of {weight.shape[1]} numbers, and the "
                    f"base model's have {self._hidden_size}; train one for this model"
                )
            self._gates[path] = weight, bias
        return self._gates[path]
