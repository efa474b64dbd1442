"""A Llama of 1B parameters and LoRA adapters for it, with random weights.

Speed does not depend on the values of the weights, so nothing has to be downloaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import zoo

BILLION = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
"""The shape of Llama 3.2 1B (arXiv 2407.21783)."""

RANK = 16


def write_model(folder: Path) -> Path:
    """Write the configuration and the zoo's tokenizer, for vLLM's `load_format="dummy"`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(BILLION))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo.BASE / name, folder / name)
    return folder


def write_adapter(folder: Path, seed: int) -> Path:
    """Write a random LoRA adapter of rank `RANK` on all linear projections."""
    generator = torch.Generator().manual_seed(seed)
    config = BILLION
    hidden, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))
    heads, width = int(str(config["num_attention_heads"])), int(str(config["head_dim"]))
    kv = int(str(config["num_key_value_heads"])) * width
    shapes = {  # module -> (inputs, outputs)
        "self_attn.q_proj": (hidden, heads * width),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (heads * width, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }

    def factor(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.01).to(torch.bfloat16)

    tensors = {}
    for layer in range(int(str(config["num_hidden_layers"]))):
        for module, (inputs, outputs) in shapes.items():
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
                "target_modules": sorted({module.split(".")[1] for module in shapes}),
            }
        )
    )
    return folder
