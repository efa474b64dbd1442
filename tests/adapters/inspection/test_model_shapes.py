"""Reading a base model's headers, and finding an adapter's modules in them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters import ModelShapes
from tests.support.adapter_files import factors, write_base


def test_matrices_modules_and_parameters(tmp_path: Path) -> None:
    shapes = ModelShapes.read(write_base(tmp_path / "base"))
    assert shapes is not None
    assert shapes.matrices["model.layers.1.self_attn.q_proj"] == (8, 8)
    assert shapes.parameters == 2 * 8 * 8 + 5 * 8 + 8
    assert "model.norm" in shapes.modules
    assert "model.norm" not in shapes.matrices


def test_tied_output_embeddings_are_found(tmp_path: Path) -> None:
    shapes = ModelShapes.read(write_base(tmp_path / "base"))
    assert shapes is not None
    assert shapes.matrices["lm_head"] == (5, 8)


def test_several_files_are_one_model(tmp_path: Path) -> None:
    for number in (1, 2):
        tensors = {f"model.layers.{number}.mlp.up_proj.weight": np.zeros((4, 2), np.float32)}
        save_file(tensors, tmp_path / f"model-{number:05}-of-00002.safetensors")
    shapes = ModelShapes.read(tmp_path)
    assert shapes is not None
    assert shapes.parameters == 16


def test_other_formats_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert ModelShapes.read(tmp_path) is None


def test_packed_weights_are_known_by_name_only(tmp_path: Path) -> None:
    tensors = {"model.layers.0.mlp.up_proj.qweight": np.zeros((4, 1), np.int32)}
    save_file(tensors, tmp_path / "model.safetensors")
    shapes = ModelShapes.read(tmp_path)
    assert shapes is not None
    assert shapes.find("model.layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"
    assert shapes.matrices == {}


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
        ("model.layers.1.self_attn.q_proj", None),
        ("model.layers.0.self_attn.k_proj", None),
        ("model.layers.0.mlp.experts", "model.layers.0.mlp.experts"),
    ],
)
def test_leading_components_may_differ(module: str, found: str | None) -> None:
    shapes = ModelShapes(
        frozenset(
            {
                "model.language_model.layers.0.self_attn.q_proj",
                "vision.blocks.1.self_attn.q_proj",
                "model.layers.0.mlp.experts.3.up_proj",
            }
        ),
        {},
        0,
    )
    assert shapes.find(module) == found


def test_an_index_says_which_files_are_the_model(tmp_path: Path) -> None:
    one = {"model.layers.0.mlp.up_proj.weight": np.zeros((4, 2), np.float32)}
    save_file(one, tmp_path / "model-00001-of-00001.safetensors")
    save_file(
        {"layers.0.feed_forward.w1.weight": one.popitem()[1]}, tmp_path / "consolidated.safetensors"
    )
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"any": "model-00001-of-00001.safetensors"}})
    )
    shapes = ModelShapes.read(tmp_path)
    assert shapes is not None
    assert shapes.modules == {"model.layers.0.mlp.up_proj"}
    assert shapes.parameters == 8

    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(OSError, match=r"index\.json cannot be read"):
        ModelShapes.read(tmp_path)


def test_an_adapter_beside_the_model_is_no_part_of_it(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    save_file(factors(), folder / "adapter_model.safetensors")
    shapes = ModelShapes.read(folder, name="org/tiny")
    assert shapes is not None
    assert not any("lora" in module for module in shapes.modules)
    assert shapes.name == "org/tiny"
    assert shapes.vocabulary == 5


def test_an_end_that_two_modules_share_is_none() -> None:
    names = frozenset({"text.layers.0.q_proj", "vision.layers.0.q_proj", "vision.layers.1.q_proj"})
    shapes = ModelShapes(names, {}, 0)
    assert shapes.find("model.layers.0.q_proj") is None
    assert shapes.find("model.layers.1.q_proj") == "vision.layers.1.q_proj"
    assert shapes.find("text.layers.0.q_proj") == "text.layers.0.q_proj"
    assert shapes.find("vision.layers") == "vision.layers"


def test_looking_up_the_modules_of_a_large_model_is_quick() -> None:
    """60 layers of 160 experts; comparing each name with each would take minutes."""
    names = [
        f"layers.{layer}.mlp.experts.{expert}.{part}_proj"
        for layer in range(60)
        for expert in range(160)
        for part in ("gate", "up", "down")
    ]
    shapes = ModelShapes(frozenset(f"language_model.model.{name}" for name in names), {}, 0)
    start = time.process_time()
    assert all(shapes.find(f"model.{name}") for name in names)
    assert time.process_time() - start < 2
