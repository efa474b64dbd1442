"""Convert SmolLM2 from GGUF to a Hugging Face folder.

Not by transformers' own GGUF reader: its model cannot be saved, and its tokenizer lacks the rule
that splits numbers into digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # token -> GGUF's name


def convert(file: Path, folder: Path) -> None:
    """Write weights (bfloat16), configuration, tokenizer and chat template into `folder`.

    Raises:
        ValueError: the file is not a Llama with tied embeddings and SmolLM's tokenizer.
    """
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for name, expected in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if fields.get(name) != expected:
            raise ValueError(f"{file}: {name} is {fields.get(name)!r}, not {expected!r}")
    save_file(_weights(reader, fields), folder / "model.safetensors", {"format": "pt"})
    _tokenizer(fields).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")
    ids = {name: fields[f"tokenizer.ggml.{key}_token_id"] for name, key in SPECIAL.items()}
    used = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")}
    config = _config(fields)
    _write_json(folder / "config.json", config | used)
    _write_json(folder / "generation_config.json", used)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            **{f"{name}_token": fields["tokenizer.ggml.tokens"][i] for name, i in ids.items()},
        },
    )


def _weights(reader: GGUFReader, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the dequantised weights under Hugging Face's names, bf16."""
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights = {}
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        match tensor.name.split("."):
            case ["blk", layer, part, _]:
                name = f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"
                if part in heads:
                    array = _unpermuted(array, heads[part])
            case [part, _]:
                name = OTHER_NAMES[part]
            case _:
                raise ValueError(f"{tensor.name} is not a tensor of a Llama")
        weights[name] = torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16)
    return weights


def _unpermuted(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Return rows of q_proj or k_proj `[heads * D, H]` in Hugging Face's order.

    Rotary embedding turns pairs of rows. GGUF has the rows of a pair side by side, Hugging Face
    half a head apart (llama.cpp, `LlamaModel.permute` of convert_hf_to_gguf.py).
    """
    rows, hidden = array.shape
    pairs = array.reshape(heads, rows // heads // 2, 2, hidden)
    return pairs.swapaxes(1, 2).reshape(rows, hidden)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    """Return config.json without the ids of special tokens."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 12),  # was f32
        "rope_theta": fields["llama.rope.freq_base"],
        "max_position_embeddings": fields["llama.context_length"],
        "vocab_size": fields["llama.vocab_size"],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
    }


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Return the byte-level BPE: digits one by one, else split as GPT-2 splits."""
    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(piece, special=True, normalized=False)
            for piece, kind in zip(pieces, fields["tokenizer.ggml.token_type"], strict=True)
            if kind == TokenType.CONTROL
        ]
    )
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
