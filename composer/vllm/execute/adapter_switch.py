"""One row, many adapters: the adapter of every next token is chosen while decoding.

vLLM tells its LoRA kernels the adapter of every token of a step; that every request has only one is
a matter of its bookkeeping. `Switches.lora_inputs` takes the place of that bookkeeping for the rows
that switch. The row keeps one KV cache, as in MeteoRA (Xu et al. 2024, section 3), and remembers
which adapter computed which token, so that a preempted one is computed again as it was.

What the choice for the next token depends on is computed on the device, beside the sampler, and
read on the host when the next step is prepared, where the choice is made: only a step with such
rows waits for the one before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from vllm.lora.request import LoRARequest

from composer.engine_plan import Switch
from composer.vllm.execute.batch import processor_of, step_of
from composer.vllm.schedule.gang import RowTag
from composer.vllm.step_failures import agreed

LoRAInputs: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]
"""vLLM's: lora_int_id of every sampled token, of every token, and the adapters."""

REMEMBERED = 256
"""Reports of answers that are complete and that nobody has asked for, and choices of classes."""


@dataclass(slots=True)
class _Row:
    """A request that switches. Candidates are meant by their place in the list."""

    switch: Switch
    ids: list[int]  # lora_int_id of each candidate, 0 for the base
    requests: list[LoRARequest]
    prompt: int  # tokens
    triggers: frozenset[int]
    report: str | None = None
    matrix: tuple[torch.Tensor, torch.Tensor] | None = None  # of its gate, as `Switches._matrix`
    chosen: dict[int, int] = field(default_factory=dict)  # position -> candidate, from then on
    answered: int = 0

    def at(self, position: int) -> int:
        """The candidate that computes the token at a position."""
        return self.chosen.get(position, self.switch.start)

    def choose(self, position: int, grounds: Sequence[float]) -> None:
        """By the token before, `[1]`, or by the logits that a gate gives after it, `[K]`."""
        now = self.at(position - 1)
        if self.switch.gate is None:
            hands_over = grounds[0] in self.triggers and now + 1 < len(self.ids)
            self.chosen[position] = now + 1 if hands_over else now
        else:
            largest = max(grounds)
            stays = largest <= grounds[now] + self.switch.stickiness
            self.chosen[position] = now if stays else grounds.index(largest)

    def computed_by(self, first: int, behind: int) -> list[int]:
        """`[behind - first]`: the lora_int_id for each of these positions."""
        return [self.ids[self.at(position)] for position in range(first, behind)]


_Deciding: TypeAlias = tuple[int, _Row, int]
"""A row of the batch, what it is, and the position that it chooses a candidate for."""

_Gated: TypeAlias = tuple[str, tuple[int, ...]]
"""A gate's file, and the class of each candidate."""


class Switches:
    """All rows of a worker that switch, by request id."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._rows: dict[str, _Row] = {}
        self._gates: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # weight [C, H], bias [C]
        self._matrices: dict[_Gated, tuple[torch.Tensor, torch.Tensor]] = {}
        # Choices of the last step, and their grounds [R, 1] or [R, K] on their way to the host
        self._choices: list[tuple[list[_Deciding], torch.Tensor]] = []
        self._ready: torch.Event | None = None  # when they are there
        self._added: set[int] = set()  # adapters that vLLM's books have because of us
        self._accounts: OrderedDict[str, list[tuple[str, _Row]]] = OrderedDict()
        self._failed: dict[str, str] = {}  # request ids whose gate cannot be used, and why
        batch = runner.input_batch
        self._vllm: Callable[..., LoRAInputs] = batch.make_lora_inputs
        batch.make_lora_inputs = self.lora_inputs

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._rows)

    # ---- life of a row

    def add(self, requests: Iterable[Any]) -> None:
        """Requests that are new to the model runner; those that do not switch pass."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.switch is None:
                continue
            candidates = tag.switch.candidates
            ids = [one.id if one is not None else 0 for one in candidates]
            own = [LoRARequest(c.name, c.id, c.path) for c in candidates if c is not None]
            prompt = len(new.prompt_token_ids)
            triggers = frozenset(tag.switch.triggers)
            row = _Row(tag.switch, ids, own, prompt, triggers, tag.report)
            self._rows.setdefault(new.req_id, row)  # one that was preempted is there already
            if tag.switch.gate is not None and self._rows[new.req_id].matrix is None:
                self._try_gate(new.req_id)

    def _try_gate(self, name: str) -> None:
        """Read the gate of a new row before the step needs it: there a file that is gone would end
        the engine. All workers read it, and agree on whether they could."""
        row, found = self._rows[name], {}
        path, classes = row.switch.gate, row.switch.classes
        assert path is not None
        try:
            row.matrix = self._matrix(path, classes)
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            found[0] = f"the gate {path} cannot be used: {error}"
        if problem := agreed(found).get(0):
            row.matrix = None
            self._failed[name] = problem

    def take_failed(self) -> dict[str, str]:
        """The requests whose gate could not be used, and why. To be called after every step."""
        failed, self._failed = self._failed, {}
        return failed

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
        if not (self._rows or self._added):
            return self._vllm(scheduled, sampled)
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
        tokens: list[int] = own.repeat(scheduled).tolist()
        last: list[int] = own.tolist()
        counts, ends = scheduled.tolist(), scheduled.cumsum().tolist()
        computed = batch.num_computed_tokens_cpu[: batch.num_reqs].tolist()
        for name, row in present:
            index = batch.req_id_to_index[name]
            ids = row.computed_by(computed[index], computed[index] + counts[index])
            tokens[ends[index] - len(ids) : ends[index]] = ids
            last[index] = ids[-1]
        # Every row of the batch samples one token: there is no speculative decoding here.
        return tuple(last), tuple(tokens), set(by_id.values())

    def choose(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> None:
        """After the step: choose for the next token of every row that switches.

        Args:
            hidden: `[R, H]`, the last hidden state of each row of the batch.
            token_ids: `[R, 1]`, what was sampled.
        """
        runner = self._runner
        computed, starts, discarded = step_of(runner)
        by_gate: dict[_Gated | None, list[_Deciding]] = {}
        for index, tag in processor_of(runner).tags.items():
            if tag.switch is None:
                continue
            row = self._rows[tag.group]
            position = computed[index] + starts[index + 1] - starts[index]
            if not discarded[index]:
                row.answered = position - row.prompt + 1
            elif tag.switch.gate is None or position != row.prompt - 1 or position in row.chosen:
                continue  # still reading
            gate = None
            if tag.switch.gate is not None:
                if row.matrix is None:
                    continue  # the gate failed, and nothing of this row is sent
                gate = (tag.switch.gate, tag.switch.classes)
            by_gate.setdefault(gate, []).append((index, row, position))
        if not by_gate:
            return
        self._settle()
        for gate, own in by_gate.items():
            grounds = token_ids
            if gate is not None:  # for all rows: that costs less than picking out those that ask
                matrix = own[0][1].matrix
                assert matrix is not None
                weight, bias = matrix
                grounds = torch.addmm(bias, hidden.float(), weight)
            self._choices.append((own, self._to_host(grounds)))
        if hidden.is_cuda:
            self._ready = torch.Event(hidden.device)
            self._ready.record()

    def _matrix(self, path: str, classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the candidates with these classes: `weight` `[H, K]` and `bias` `[K]`, float32."""
        key = (path, classes)
        if key not in self._matrices:
            if len(self._matrices) >= REMEMBERED:
                self._matrices.clear()
            weight, bias = self.gate(path)
            rows = list(classes)
            self._matrices[key] = weight[rows].T.contiguous(), bias[rows]
        return self._matrices[key]

    @staticmethod
    def _to_host(values: torch.Tensor) -> torch.Tensor:
        """Does not wait for the device: see `_ready`."""
        if not values.is_cuda:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)

    def _settle(self) -> None:
        """Make the choices of the last step that asked for some."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = None
        for own, grounds in self._choices:
            values = grounds.tolist()
            for index, row, position in own:
                row.choose(position, values[index])
        self._choices.clear()

    # ---- gates and reports

    def gate(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`weight` `[classes, H]` and `bias` `[classes]`, float32; read from the disk once.

        Raises:
            ValueError: it is for another hidden size.
        """
        if path not in self._gates:
            tensors = load_file(path, device=str(self._runner.device))
            weight, bias = tensors["weight"].float(), tensors["bias"].float()
            size = self._runner.model_config.get_hidden_size()
            if weight.shape[1] != size:
                raise ValueError(
                    f"the gate {path} is for hidden states of {weight.shape[1]} numbers, and the "
                    f"base model's have {size}; train one for this model"
                )
            self._gates[path] = weight, bias
        return self._gates[path]

    def report(self, ticket: str, tokens: int | None = None) -> list[dict[str, Any]]:
        """For each answer to a request: the share of its tokens that each candidate computed, and
        the candidate of every token. Forgets them. `tokens` as in `MixtureRouting.report`."""
        self._settle()
        found = self._accounts.pop(ticket, [])
        for name, row in self._rows.items():
            if row.report == ticket:
                found.append((name, row))
                row.report = None
        in_order = sorted(found, key=lambda named: named[0])
        return [{"name": name, **_used(row, tokens)} for name, row in in_order]


def _used(row: _Row, tokens: int | None) -> dict[str, Any]:
    count = row.answered if tokens is None else min(row.answered, tokens)
    used = [row.at(row.prompt - 1 + number) for number in range(count)]
    shares = [used.count(candidate) / max(count, 1) for candidate in range(len(row.ids))]
    return {"weights": shares, "tokens": used}
