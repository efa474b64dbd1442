"""Llamas of several sizes and LoRA adapters and gates for them, with random weights.

Speed does not depend on the values of the weights, so nothing has to be downloaded.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

import zoo

RANK = 16


@dataclass(frozen=True, slots=True)
class Config:
    """The sizes of a Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # whether the output layer is the embedding

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of a layer's linear modules."""
        kv = self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, self.heads * self.head_dim),
            "self_attn.k_proj": (self.hidden, kv),
            "self_attn.v_proj": (self.hidden, kv),
            "self_attn.o_proj": (self.heads * self.head_dim, self.hidden),
            "mlp.gate_proj": (self.hidden, self.inner),
            "mlp.up_proj": (self.hidden, self.inner),
            "mlp.down_proj": (self.inner, self.hidden),
        }

    def weights(self) -> int:
        """Return how many weights a step reads: all but the embedding, of which it reads rows."""
        layer = sum(inputs * outputs for inputs, outputs in self.modules().values())
        norms = (2 * self.layers + 1) * self.hidden
        return self.layers * layer + norms + self.vocabulary * self.hidden

    def adapter_numbers(self) -> int:
        """Return the size of one adapter."""
        return self.layers * sum(RANK * sum(sizes) for sizes in self.modules().values())

    def cached_numbers(self) -> int:
        """Return how many keys and values one token has in the KV cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def as_json(self) -> dict[str, object]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }


LLAMA_8B = Config(4096, 14336, 32, 32, 8, 128, 128_256, tied=False)
LLAMA_1B = Config(2048, 8192, 16, 32, 8, 64, 128_256, tied=True)
"""The shapes of Llama 3.1 8B and Llama 3.2 1B (arXiv 2407.21783)."""

SHAPES: dict[str, tuple[Config, Config]] = {
    "8b": (LLAMA_8B, LLAMA_1B),
    "1b": (LLAMA_1B, Config(1024, 4096, 8, 16, 8, 64, 128_256, tied=True)),
    "tiny": (
        Config(128, 352, 2, 2, 2, 64, 1024, tied=True),
        Config(64, 176, 2, 1, 1, 64, 1024, tied=True),
    ),
}
"""A base model and a smaller auxiliary one."""


def write_model(folder: Path, config: Config) -> Path:
    """Write the configuration and the zoo's tokenizer, for vLLM's `load_format="dummy"`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.as_json()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo.BASE / name, folder / name)
    return folder


def write_adapter(folder: Path, config: Config, seed: int) -> Path:
    """Write a random LoRA adapter of rank `RANK` on all linear projections."""
    generator = torch.Generator().manual_seed(seed)

    def factor(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.01).to(torch.bfloat16)

    tensors = {}
    for layer in range(config.layers):
        for module, (inputs, outputs) in config.modules().items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = factor(RANK, inputs)
            tensors[f"{name}.lora_B.weight"] = factor(outputs, RANK)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": RANK,
                "lora_alpha": RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": sorted({name.split(".")[1] for name in config.modules()}),
            }
        )
    )
    return folder


def write_gate(path: Path, config: Config, classes: int) -> Path:
    """Write a gate with random weights; it changes the adapter often."""
    weight = torch.randn(classes, config.hidden, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight, "bias": torch.zeros(classes)}, path)
    return path
