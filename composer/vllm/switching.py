"""One row, many adapters: the adapter of every next token is chosen while decoding.

vLLM tells its LoRA kernels the adapter of every token of a step; that every request has only one is
a matter of its bookkeeping. `Switches.lora_inputs` takes the place of that bookkeeping for the rows
that switch. The row keeps one KV cache, as in MeteoRA (Xu et al. 2024, section 3), and remembers
which adapter computed which token, so that a preempted one is computed again as it was.

The choice for the next token is made on the device, beside the sampler, and read on the host when
the next step is prepared: only a step with such rows waits for the one before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file
from vllm.lora.request import LoRARequest

from composer.compiled import Switch
from composer.vllm.processor import processor_of
from composer.vllm.rows import RowTag

LoRAInputs: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]
"""vLLM's: lora_int_id of every sampled token, of every token, and the adapters."""

REMEMBERED = 1024
"""Reports of answers that are complete and that nobody has asked for."""


@dataclass(slots=True)
class _Row:
    """A request that switches. Candidates are meant by their place in the list."""

    switch: Switch
    ids: np.ndarray  # [C] int64: lora_int_id of each candidate, 0 for the base
    requests: list[LoRARequest]
    prompt: int  # tokens
    chosen: dict[int, int] = field(
        default_factory=dict
    )  # position -> candidate, from the choice on
    answered: int = 0
    report: str | None = None

    def at(self, position: int) -> int:
        """The candidate that computes the token at a position."""
        return self.chosen.get(position, self.switch.start)

    def computed_by(self, first: int, behind: int) -> np.ndarray:
        """`[behind - first]` int64: the lora_int_id for each of these positions."""
        return self.ids[[self.at(position) for position in range(first, behind)]]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Choices that are on their way to the host."""

    rows: list[tuple[_Row, int]]  # and the position that each is for
    candidates: torch.Tensor  # [M] int64 on the host, once `ready`
    ready: Any


class Switches:
    """All rows of a worker that switch, by request id."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._rows: dict[str, _Row] = {}
        self._gates: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # weight [C, H], bias [C]
        self._choice: _Choice | None = None
        self._added: set[int] = set()  # adapters that vLLM's books have because of us
        self._accounts: OrderedDict[str, list[tuple[str, _Row]]] = OrderedDict()
        batch = runner.input_batch
        self._vllm: Callable[..., LoRAInputs] = batch.make_lora_inputs
        batch.make_lora_inputs = self.lora_inputs

    # ---- life of a row

    def add(self, requests: Iterable[Any]) -> None:
        """Requests that are new to the model runner; those that do not switch pass."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.switch is None:
                continue
            candidates = tag.switch.candidates
            ids = np.array([one.id if one is not None else 0 for one in candidates])
            own = [LoRARequest(c.name, c.id, c.path) for c in candidates if c is not None]
            prompt = len(new.prompt_token_ids)
            row = _Row(tag.switch, ids, own, prompt, report=tag.report)
            self._rows.setdefault(new.req_id, row)  # one that was preempted is there already

    def forget(self, finished: Iterable[str]) -> None:
        if not self._rows:
            return
        self._settle()
        for name in finished:
            row = self._rows.pop(name, None)
            if row is not None and row.report is not None:
                self._accounts.setdefault(row.report, []).append((name, row))
                while len(self._accounts) > REMEMBERED:
                    self._accounts.popitem(last=False)

    def adapters(self) -> set[int]:
        """Ids of all candidates of all rows."""
        return {request.lora_int_id for row in self._rows.values() for request in row.requests}

    def left(self) -> list[str]:
        return list(self._rows)

    # ---- one step

    def lora_inputs(self, scheduled: np.ndarray, sampled: np.ndarray) -> LoRAInputs:
        """vLLM's question before every step: `[R]` tokens to compute and to sample of each row."""
        batch = self._runner.input_batch
        by_id = batch.lora_id_to_lora_request
        for id in self._added:
            if id not in batch.lora_id_to_request_ids:
                by_id.pop(id, None)
        self._added.clear()
        present = [(name, row) for name, row in self._rows.items() if name in batch.req_id_to_index]
        if not present:
            return self._vllm(scheduled, sampled)
        self._settle()
        for _, row in present:  # vLLM also picks its CUDA graph by how many these are
            for request in row.requests:
                if request.lora_int_id not in by_id:
                    by_id[request.lora_int_id] = request
                    self._added.add(request.lora_int_id)
        own = batch.request_lora_mapping[: batch.num_reqs]
        tokens, last = own.repeat(scheduled), own.copy()
        behind = scheduled.cumsum()
        for name, row in present:
            index = batch.req_id_to_index[name]
            first = int(batch.num_computed_tokens_cpu[index])
            ids = row.computed_by(first, first + int(scheduled[index]))
            tokens[behind[index] - len(ids) : behind[index]] = ids
            last[index] = ids[-1]
        return tuple(last.repeat(sampled)), tuple(tokens), set(by_id.values())

    def choose(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> None:
        """After the step: choose for the next token of every row that switches.

        Args:
            hidden: `[R, H]`, the last hidden state of each row of the batch.
            token_ids: `[R, 1]`, what was sampled.
        """
        runner, batch = self._runner, self._runner.input_batch
        by_gate: dict[str | None, list[tuple[int, _Row, int]]] = {}
        for index, tag in processor_of(runner).tags.items():
            if tag.switch is None:
                continue
            row = self._rows[tag.group]
            first, behind = runner.query_start_loc.np[index : index + 2].tolist()
            position = int(batch.num_computed_tokens_cpu[index]) + behind - first
            sampled = not runner.discard_request_mask.np[index]
            if sampled:
                row.answered = position - row.prompt + 1
            barrier = tag.switch.gate is not None and position == row.prompt - 1
            if sampled or (barrier and position not in row.chosen):
                by_gate.setdefault(tag.switch.gate, []).append((index, row, position))
        if not by_gate:
            return
        self._settle()
        rows = [(row, position) for own in by_gate.values() for _, row, position in own]
        parts = [
            self._by_trigger(own, token_ids) if gate is None else self._by_gate(gate, own, hidden)
            for gate, own in by_gate.items()
        ]
        chosen = torch.cat(parts)
        host = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=runner.pin_memory)
        host.copy_(chosen, non_blocking=True)
        ready = None
        if chosen.device.type != "cpu":
            ready = torch.Event(chosen.device)
            ready.record()
        self._choice = _Choice(rows, host, ready)

    def _by_gate(
        self, path: str, own: Sequence[tuple[int, _Row, int]], hidden: torch.Tensor
    ) -> torch.Tensor:
        """`[M]` int64: the candidate with the largest logit, or the present one if it is close."""
        weight, bias = self.gate(path)
        device = hidden.device
        indices = torch.tensor([index for index, _, _ in own], device=device)
        logits = hidden.index_select(0, indices).float() @ weight.T + bias  # [M, classes]
        size = max(len(row.ids) for _, row, _ in own)
        classes = [[*row.switch.classes, *[0] * (size - len(row.ids))] for _, row, _ in own]
        absent = [[c >= len(row.ids) for c in range(size)] for _, row, _ in own]
        present = torch.tensor([[row.at(position - 1)] for _, row, position in own], device=device)
        bonus = torch.tensor([[row.switch.stickiness] for _, row, _ in own], device=device)
        logits = logits.gather(1, torch.tensor(classes, device=device))  # [M, C]
        logits = logits.masked_fill(torch.tensor(absent, device=device), -torch.inf)
        return logits.scatter_add(1, present, bonus.float()).argmax(1)

    def _by_trigger(
        self, own: Sequence[tuple[int, _Row, int]], token_ids: torch.Tensor
    ) -> torch.Tensor:
        """`[M]` int64: the next candidate where the token was a trigger."""
        chosen = []
        for index, row, position in own:
            now = row.at(position - 1)
            after = min(now + 1, len(row.ids) - 1)
            triggers = torch.tensor(row.switch.triggers, device=token_ids.device)
            is_trigger = (token_ids[index].long() == triggers).any()
            chosen.append(now + (after - now) * is_trigger.long())
        return torch.stack(chosen)

    def _settle(self) -> None:
        """Read the choices of the last step that made some."""
        choice, self._choice = self._choice, None
        if choice is None:
            return
        if choice.ready is not None:
            choice.ready.synchronize()
        for (row, position), candidate in zip(choice.rows, choice.candidates.tolist(), strict=True):
            row.chosen[position] = candidate

    # ---- gates and reports

    def gate(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`weight` `[classes, H]` and `bias` `[classes]`, float32; read from the disk once."""
        if path not in self._gates:
            tensors = load_file(path, device=str(self._runner.device))
            self._gates[path] = tensors["weight"].float(), tensors["bias"].float()
        return self._gates[path]

    def report(self, ticket: str, tokens: int | None = None) -> list[dict[str, list[Any]]]:
        """For each answer to a request: the share of its tokens that each candidate computed, and
        the candidate of every token. Forgets them. `tokens` as in `MixtureRouting.report`."""
        self._settle()
        found = self._accounts.pop(ticket, [])
        for name, row in self._rows.items():
            if row.report == ticket:
                found.append((name, row))
                row.report = None
        in_order = sorted(found, key=lambda named: named[0])
        return [_used(row, tokens) for _, row in in_order]


def _used(row: _Row, tokens: int | None) -> dict[str, list[Any]]:
    count = row.answered if tokens is None else min(row.answered, tokens)
    used = [row.at(row.prompt - 1 + number) for number in range(count)]
    shares = [used.count(candidate) / max(count, 1) for candidate in range(len(row.ids))]
    return {"weights": shares, "tokens": used}
