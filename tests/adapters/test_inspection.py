"""What `inspect` accepts, and that each refusal says which adapter, why, and what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch_file

from adapters import AdapterError, ModelShapes, inspect
from composer.errors import ComposerError
from tests.adapters.files import RANK, Tensors, factors, write_adapter, write_base


@pytest.fixture
def base(tmp_path: Path) -> ModelShapes:
    shapes = ModelShapes.read(write_base(tmp_path / "base"))
    assert shapes is not None
    return shapes


def refused(path: Path, alias: str = "polite", base: ModelShapes | None = None) -> str:
    with pytest.raises(AdapterError) as caught:
        inspect(path, alias, base)
    assert isinstance(caught.value, ComposerError)
    assert f"'{alias}'" in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_fitting_adapter_becomes_a_generation(tmp_path: Path, base: ModelShapes) -> None:
    path = write_adapter(tmp_path / "polite")
    generation = inspect(path, "polite", base)
    assert (generation.alias, generation.rank) == ("polite", RANK)
    assert generation.path == path.resolve()
    assert len(generation.digest) == 64
    assert generation.engine_name == f"polite@{generation.digest[:12]}"
    assert 0 < generation.id < 2**31


def test_the_digest_follows_the_content_alone(tmp_path: Path) -> None:
    one = inspect(write_adapter(tmp_path / "one"), "polite")
    copy = inspect(write_adapter(tmp_path / "copy"), "polite")
    assert (one.digest, one.id) == (copy.digest, copy.id)

    scaled = inspect(write_adapter(tmp_path / "scaled", lora_alpha=8), "polite")
    weights = {name: 2 * tensor for name, tensor in factors().items()}
    trained = inspect(write_adapter(tmp_path / "trained", weights), "polite")
    assert len({one.digest, scaled.digest, trained.digest}) == 3
    assert len({one.id, scaled.id, trained.id}) == 3


def test_the_largest_rank_counts(tmp_path: Path) -> None:
    tensors = factors(rank=2) | {
        name.replace("q_proj", "k_proj"): tensor for name, tensor in factors(rank=4).items()
    }
    assert inspect(write_adapter(tmp_path / "a", tensors), "polite").rank == 4


def test_missing_files(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "adapter_config.json is missing" in refused(empty)
    no_weights = write_adapter(tmp_path / "no_weights")
    (no_weights / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in refused(no_weights)


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    message = refused(path)
    assert "adapter_model.bin" in message
    assert "safe_serialization" in message


def test_damaged_files(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    weights = path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:-1], b"\xff" * 8 + whole[8:]):
        weights.write_bytes(damaged)
        assert "cannot be read" in refused(path)
    (path / "adapter_config.json").write_text("{")
    assert "not JSON" in refused(path)
    (path / "adapter_config.json").write_text("[]")
    assert "not a JSON object" in refused(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "have a bias"),
        ({"layer_replication": [[0, 1]]}, "replicates layers"),
        ({"init_lora_weights": "pissa"}, "initialization 'pissa'"),
        ({"r": 0}, "rank r is 0"),
        ({"r": None}, "rank r is None"),
        ({"r": "8"}, "rank r is '8'"),
    ],
)
def test_methods_that_vllm_does_not_follow(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    assert expected in refused(write_adapter(tmp_path / "a", **config))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numbers_that_are_none(tmp_path: Path, bad: float, dtype: type) -> None:
    tensors: Tensors = {name: tensor.astype(dtype) for name, tensor in factors().items()}
    name = next(iter(tensors))
    tensors[name][0, 0] = bad
    assert f"{name} holds NaN or infinity" in refused(write_adapter(tmp_path / "a", tensors))


@pytest.mark.parametrize("value", [3.3e38, float("inf"), float("nan")])
def test_bfloat16_which_numpy_does_not_know(tmp_path: Path, value: float) -> None:
    path = write_adapter(tmp_path / "a")
    tensors = {n: torch.full(t.shape, value, dtype=torch.bfloat16) for n, t in factors().items()}
    save_torch_file(tensors, path / "adapter_model.safetensors")
    if math.isfinite(value):
        inspect(path, "polite")
    else:
        assert "NaN or infinity" in refused(path)


def test_tensors_that_are_no_factors(tmp_path: Path) -> None:
    extra = factors() | {"base_model.model.lm_head.weight": np.ones((5, 8), np.float32)}
    assert "lm_head.weight, which is no factor" in refused(write_adapter(tmp_path / "a", extra))
    assert "holds no tensors" in refused(write_adapter(tmp_path / "b", {}))
    alone = {name: t for name, t in factors().items() if "lora_A" in name}
    assert "not two matrices" in refused(write_adapter(tmp_path / "c", alone))
    apart = factors(rank=2) | {n: t for n, t in factors(rank=3).items() if "lora_B" in n}
    assert "the ranks 2 and 3" in refused(write_adapter(tmp_path / "d", apart))


def test_another_base_model(tmp_path: Path, base: ModelShapes) -> None:
    wide = write_adapter(tmp_path / "wide", factors(hidden=16))
    message = refused(wide, base=base)
    assert "[16, 16]" in message
    assert "[8, 8]" in message
    assert "the model that it was trained on" in message

    deep = write_adapter(tmp_path / "deep", factors(layers=3))
    assert "no module model.layers.2.self_attn.q_proj" in refused(deep, base=base)

    other = write_adapter(tmp_path / "other", factors("model.layers.{}.attn.c_attn"))
    assert "no module model.layers.0.attn.c_attn" in refused(other, base=base)


@pytest.mark.parametrize("alias", ["base", "", "1st", "a b", "a/b", "a@b", "x" * 65, "ä"])
def test_names_that_would_be_ambiguous(tmp_path: Path, alias: str) -> None:
    assert "name" in refused(write_adapter(tmp_path / "a"), alias=alias)
