"""LoRA kernels for CPU: many adapters in one batch at the cost of few.

vLLM's PyTorch kernels for CPU (`lora/ops/torch_ops/lora_ops.py`, 0.32) have two faults:

* Tokens without an adapter, which vLLM marks with the index -1, get the adapter in the last slot
  once that slot is in use. Compositions consist of base rows beside adapter rows.
  Upstream: vllm-project/vllm pull request 48421.
* The weights of an adapter are copied once per token (`lora_b_weights[indices]`), which takes most
  of the time of a step and, for long prompts, gigabytes.

`tests/engine/test_compat.py` fails when a release has fixed them and this file can go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import embedding_bag
from vllm.lora.layers import LogitsProcessorWithLoRA, VocabParallelEmbeddingWithLoRA
from vllm.lora.layers.base import BaseLayerWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from composer.vllm.workarounds.lm_head_lora import have_factors, layers_of

FEW = 8
"""Up to this many rows of an adapter are multiplied row by row, more of them as a matrix, which
costs a few calls per adapter. The two break even near here, for layers of 256 to 2048 inputs in
float32 and bfloat16."""


class AdapterwisePunica(PunicaWrapperCPU):
    """Computes `y[rows of a slot] += scale * x[rows] A^T B^T`, slot by slot.

    Rows without an adapter are not touched. Python selects the slots in every step, which a
    compiled graph would not repeat: vLLM does not compile models with LoRA on CPU
    (`platforms/cpu.py`).
    """

    def __init__(self, *args: Any, manager: LoRAModelManager, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._manager = manager
        self._tokens = Rows()
        # vLLM's tensors as arrays: writing a few numbers costs less than one tensor operation
        self._of_tokens = self._token_lora_indices.numpy()
        self._of_samples = self._sampler_indices.numpy()
        self._of_embeddings = self._embeddings_indices.numpy()
        self._layers: dict[type, list[str]] = {}  # names, by kind
        self._embedding = self._head = False  # whether an adapter of the batch changes them

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Note the adapters of the batch's rows and of the slots, when either has changed.

        Write only what the layers and the kernels of this class read: where adapters take turns,
        this runs in every step.
        """
        slots = {id: slot for slot, id in enumerate(lora_index_to_id) if id is not None} | {0: -1}
        tokens = tuple(slots[id] for id in mapping.index_mapping)
        sampled = [slots[id] for id in mapping.prompt_mapping]
        self._of_tokens[: len(tokens)] = tokens
        self._of_samples[: len(sampled)] = sampled
        self._of_embeddings[: len(tokens)] = [max(slot, 0) * vocab_size for slot in tokens]
        self.indices_len[:] = [len(tokens), len(sampled), None, len(tokens)]
        self._tokens = Rows.of(tokens)
        self._embedding = self._changes(mapping.index_mapping, VocabParallelEmbeddingWithLoRA)
        self._head = self._changes(mapping.index_mapping, LogitsProcessorWithLoRA)

    def _changes(self, ids: Iterable[int], kind: type[BaseLayerWithLoRA]) -> bool:
        """Return whether one of the adapters has factors for a layer of this kind; few do."""
        if kind not in self._layers:
            self._layers[kind] = layers_of(self._manager, kind)
        return have_factors(self._manager, ids, self._layers[kind])

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: LayerFactors,
        lora_b_stacked: tuple[torch.Tensor, ...],  # per slice [slots, 1, size, r]
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])  # [T, in], [T, sum of sizes]
        a = lora_a_stacked.together  # [slots, in, slices * r]
        bs = [b.squeeze(1).transpose(1, 2) for b in lora_b_stacked]  # [slots, r, size]
        x = x.to(a.dtype)
        for slot, rows in self._tokens.many:
            h = x.index_select(0, rows) @ a[slot]
            parts = [hk @ b[slot] for hk, b in zip(h.chunk(len(bs), 1), bs, strict=True)]
            y.index_add_(0, rows, _side_by_side(parts).to(y.dtype), alpha=scale)
        if (few := self._tokens.few) is not None:
            h = few.times(x.index_select(0, few.rows), a)
            parts = [few.times(hk, b) for hk, b in zip(h.chunk(len(bs), 1), bs, strict=True)]
            y.index_add_(0, few.rows, _side_by_side(parts).to(y.dtype), alpha=scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        if self._embedding:
            base = (self.token_lora_indices < 0).unsqueeze(1)  # [T, 1]
            super().add_lora_embedding(y, x.masked_fill(base, 0.0), *args, **kwargs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if not self._head or y.shape[0] != self.sampler_indices.shape[0]:
            # Another number of rows: logprobs of one request's prompt. vLLM does not say of which
            # request, and its own kernels fail here; these logprobs lack lm_head adapters.
            return
        for slot, rows in Rows.of(tuple(self.sampler_indices.tolist())).by_slot():
            delta = x[rows] @ lora_a_stacked[slot, 0].T @ lora_b_stacked[slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, rows, delta.to(y.dtype), alpha=scale)


@dataclass(frozen=True, slots=True)
class Few:
    """Rows of the batch that are multiplied one by one, each with the factors of its slot."""

    rows: torch.Tensor  # [n] int64, those of a slot next to each other
    slots: tuple[int, ...]  # [n], sorted

    def times(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return `out[i] = x[i] factors[slot of i]`: `[n, in]`, `[slots, in, out]` -> `[n, out]`.

        A product of a row and a matrix is a weighted sum of the matrix's rows. PyTorch's embedding
        bag computes many such sums over one table, copies no weights and takes any mixture of
        slots at once.
        """
        indices, offsets = table_rows(self.slots, x.shape[1])
        return embedding_bag(
            indices, factors.flatten(0, 1), offsets, mode="sum", per_sample_weights=x.flatten()
        )


@lru_cache(maxsize=128)
def table_rows(slots: tuple[int, ...], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which rows of a table the matrices of these slots are, `[n * width]` int32, and the
    offsets of the matrices in that list, `[n]` int32. Each matrix has `width` rows of the table.

    Cached: adapters may change in every step, but their numbers of rows soon recur.
    """
    first = torch.tensor(slots, dtype=torch.int32).unsqueeze(1) * width
    offsets = torch.arange(0, len(slots) * width, width, dtype=torch.int32)
    return (first + torch.arange(width, dtype=torch.int32)).flatten(), offsets


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch by adapter slot, without the rows that have no adapter."""

    many: list[tuple[int, torch.Tensor]] = field(default_factory=list)  # slot, its rows [n] int64
    few: Few | None = None

    @staticmethod
    @lru_cache(maxsize=256)
    def of(slots: tuple[int, ...]) -> Rows:
        """Sort rows by their slots; -1: no adapter. Cached: few adapters in few rows recur."""
        by_slot: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            by_slot.setdefault(slot, []).append(row)
        by_slot.pop(-1, None)
        # Beside adapters that go row by row, a separate matrix product pays off later.
        max_few = FEW if all(len(rows) > FEW for rows in by_slot.values()) else 2 * FEW
        in_order = sorted(by_slot.items())
        many = [(slot, torch.tensor(rows)) for slot, rows in in_order if len(rows) > max_few]
        few = [(slot, row) for slot, rows in in_order if len(rows) <= max_few for row in rows]
        if not few:
            return Rows(many)
        few_slots, few_rows = zip(*few, strict=True)
        return Rows(many, Few(torch.tensor(few_rows), few_slots))

    def by_slot(self) -> list[tuple[int, torch.Tensor]]:
        """Return every slot with its rows."""
        if (few := self.few) is None:
            return self.many
        slots = torch.tensor(few.slots)
        return [*self.many, *((slot, few.rows[slots == slot]) for slot in sorted(set(few.slots)))]


class LayerFactors(tuple[torch.Tensor, ...]):
    """vLLM's `lora_a_stacked`, `[slots, 1, r, in]` per slice, as views of one tensor."""

    together: torch.Tensor  # [slots, in, slices * r]


def use_adapterwise_kernels(manager: LoRAModelManager) -> None:
    """Make all LoRA layers of a model use `AdapterwisePunica`, before it has adapters."""
    for prefix, kernels in manager.punica_wrapper_mapping.items():
        replacement = AdapterwisePunica(
            manager.max_num_batched_tokens,
            max_batches=manager.max_num_seqs,
            device=manager.device,
            manager=manager,
        )
        manager.punica_wrapper_mapping[prefix] = replacement
        for layer in manager.modules.values():
            if layer.punica_wrapper is kernels:
                layer.set_mapping(replacement)
    for layer in manager.modules.values():
        if isinstance(layer, BaseLinearLayerWithLoRA):
            _lay_out(layer)


def _lay_out(layer: BaseLinearLayerWithLoRA) -> None:
    """Store the factors of all slots so that the rows that `Few.times` reads are contiguous."""
    slots, _, rank, width = layer.lora_a_stacked[0].shape
    slices = len(layer.lora_a_stacked)
    together = layer.lora_a_stacked[0].new_zeros(slots, width, slices * rank)
    views = (part.unsqueeze(1).transpose(2, 3) for part in together.chunk(slices, 2))
    layer.lora_a_stacked = LayerFactors(views)
    layer.lora_a_stacked.together = together
    layer.lora_b_stacked = tuple(
        b.new_zeros(slots, 1, rank, b.shape[2]).transpose(2, 3) for b in layer.lora_b_stacked
    )


def _side_by_side(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
