"""Reading a base model's headers, and finding an adapter's modules in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters import ModelShapes
from tests.adapters.files import write_base


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
