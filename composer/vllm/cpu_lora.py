"""LoRA on CPU: one small matrix product per adapter of the batch.

vLLM's PyTorch kernels for CPU (`lora/ops/torch_ops/lora_ops.py`, 0.32) have two faults:

* Tokens without an adapter, which vLLM marks with the index -1, get the adapter in the last slot,
  as soon as that slot is taken. Base rows beside adapter rows are what compositions are made of.
  Upstream: vllm-project/vllm pull request 48421.
* The weights of an adapter are copied once per token (`lora_b_weights[indices]`), which takes most
  of the time of a step and, for long prompts, gigabytes.

`tests/engine/test_compat.py` says when a release has mended them and this file can go.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_Parts = list[tuple[int, torch.Tensor]]
"""Adapter slot, and its rows of a batch: `[n]` int64."""


class AdapterwisePunica(PunicaWrapperCPU):
    """`y[rows of a slot] += scale * x[rows] A^T B^T`, slot by slot; other rows are not touched.

    Python decides in every step which slots there are, which a compiled graph would not notice:
    vLLM does not compile models with LoRA on CPU (`platforms/cpu.py`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens: _Parts = []
        self._samples: _Parts = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._tokens = _by_slot(self.token_lora_indices)
        self._samples = _by_slot(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],  # per slice [slots, 1, r, in]
        lora_b_stacked: tuple[torch.Tensor, ...],  # per slice [slots, 1, size, r]
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])  # [T, in], [T, sum of sizes]
        slices = list(zip(lora_a_stacked, lora_b_stacked, strict=True))
        for slot, rows in self._tokens:
            own = x[rows]
            parts = [linear(linear(own, a[slot, 0]), b[slot, 0]) for a, b in slices]
            delta = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            y.index_add_(0, rows, delta.to(y.dtype), alpha=scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
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
        if y.shape[0] != self.sampler_indices.shape[0]:
            # Logprobs of one request's prompt. vLLM does not say whose, and its own kernels fail
            # here; an adapter of the output layer, which is rare, is left out of them.
            return
        for slot, rows in self._samples:
            delta = linear(linear(x[rows], lora_a_stacked[slot, 0]), lora_b_stacked[slot, 0])
            y[:, : delta.shape[1]].index_add_(0, rows, delta.to(y.dtype), alpha=scale)


def _by_slot(indices: torch.Tensor) -> _Parts:
    """The positions of each slot in `indices` `[n]`; -1, no adapter, is left out."""
    return [
        (slot, (indices == slot).nonzero().squeeze(1))
        for slot in indices.unique().tolist()
        if slot >= 0
    ]


def use_adapterwise_kernels(manager: LoRAModelManager) -> None:
    """Make all LoRA layers of a loaded model use `AdapterwisePunica`."""
    for prefix, kernels in manager.punica_wrapper_mapping.items():
        own = AdapterwisePunica(
            manager.max_num_batched_tokens,
            max_batches=manager.max_num_seqs,
            device=manager.device,
        )
        manager.punica_wrapper_mapping[prefix] = own
        for layer in manager.modules.values():
            if layer.punica_wrapper is kernels:
                layer.set_mapping(own)
