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
from typing import Any

import torch
from vllm.lora.layers import LogitsProcessorWithLoRA, VocabParallelEmbeddingWithLoRA
from vllm.lora.layers.base import BaseLayerWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from composer.vllm.workarounds.lm_head_lora import have_factors, layers_of
from composer.vllm.workarounds.lora_factors import LayerFactors, lay_out
from composer.vllm.workarounds.lora_rows import Rows


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
        """Add the product of the factors, in place; vLLM's `scale` is always 1 here."""
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])  # [T, in], [T, sum of sizes]
        for slot, rows in self._tokens.runs:
            lora_a_stacked.add_to_run(y[rows], x[rows], slot)
        if (few := self._tokens.few) is not None:
            lora_a_stacked.add_to_few(y, x, few)
        if (many := self._tokens.many) is not None:
            lora_a_stacked.add_to_many(y, x, many)

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
        slots = self.sampler_indices
        for slot in sorted({*slots.tolist()} - {-1}):
            rows = (slots == slot).nonzero().squeeze(1)
            delta = x[rows] @ lora_a_stacked[slot, 0].T @ lora_b_stacked[slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, rows, delta.to(y.dtype), alpha=scale)


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
            lay_out(layer)
