"""Reading adapters as factors, and writing them so that PEFT and vLLM read the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adapters.errors import AdapterError, MergeError
from adapters.weight_space.factors import AdapterReader, Factors, write_adapter
from tests.adapters.weight_space.merge.samples import (
    HEAD,
    SHAPES,
    UP,
    Q,
    dense,
    distance,
    products,
    write,
)


def read(folder: Path) -> dict[str, Tensor]:
    reader = AdapterReader(folder)
    factors = {module: reader.read(module, torch.float64) for module in reader.modules}
    return {module: f.b @ f.a for module, f in factors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_reading(tmp_path: Path, dtype: torch.dtype, config: dict[str, Any]) -> None:
    folder = write(tmp_path / "a", 1, rank=3, alpha=7, dtype=dtype, **config)
    reader = AdapterReader(folder)
    assert reader.modules == tuple(sorted(SHAPES))
    assert {m: reader.shape(m) for m in reader.modules} == SHAPES
    assert {reader.rank(m) for m in reader.modules} == {3}
    assert reader.read(Q).a.dtype == reader.read(Q).b.dtype == torch.float32
    assert (reader.read(UP).shape, reader.read(UP).rank) == (SHAPES[UP], 3)
    assert reader.base_model == "a/base"
    assert distance(read(folder), dense(folder)) < 1e-12


def test_patterns_by_module(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1, rank=4, alpha=8)
    tensors = load_file(folder / "adapter_model.safetensors")
    small = write(tmp_path / "small", 2, rank=2, shapes={UP: SHAPES[UP]})
    save_file(
        tensors | load_file(small / "adapter_model.safetensors"),
        folder / "adapter_model.safetensors",
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    # The first pattern that is an end of the name wins, as in PEFT and vLLM.
    config |= {
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {"mlp.up_proj": 3, "up_proj": 99, r".*\.q_proj": 5, "proj": 77},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    raw = products(folder)
    expected = {Q: raw[Q] * 5 / 4, UP: raw[UP] * 3 / 2, HEAD: raw[HEAD] * 8 / 4}
    assert distance(read(folder), expected) < 1e-12


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"fan_in_fan_out": True}, "transposed"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "fused experts"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"r": 5}, "rank 4"),
    ],
)
def test_what_is_no_plain_delta_is_refused(
    tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AdapterError, match=problem):
        AdapterReader(write(tmp_path / "a", 1, **config))


def test_embeddings_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1)
    tensors = load_file(folder / "adapter_model.safetensors") | {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 30),
        "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(24, 4),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="embed"):
        AdapterReader(folder)


def test_writing_gives_the_same_numbers_back(tmp_path: Path) -> None:
    reader = AdapterReader(write(tmp_path / "a", 1, alpha=7))
    modules = {module: reader.read(module) for module in reader.modules}
    for name in ("one", "two"):
        write_adapter(tmp_path / name, modules, base_model="a/base")
    assert (
        distance(read(tmp_path / "one"), {m: (f.b @ f.a).double() for m, f in modules.items()})
        < 1e-6
    )
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    write_adapter(tmp_path / "half", modules, base_model=None, dtype=torch.bfloat16)
    assert AdapterReader(tmp_path / "half").base_model is None
    stored = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        (float("nan"), 1.0, torch.float32),
        (1.0, float("inf"), torch.float32),
        (70000.0, 1e-3, torch.float16),  # infinite once it is rounded
        (70000.0, 1e-3, torch.float32),
        (300.0, 300.0, torch.float32),
    ],
)
def test_writing_what_no_server_takes_is_refused(
    tmp_path: Path, a: float, b: float, dtype: torch.dtype
) -> None:
    factors = Factors(torch.full((2, 8), a), torch.full((8, 2), b))
    with pytest.raises(MergeError, match=r"factors of up_proj hold NaN, or numbers beyond 65504"):
        write_adapter(tmp_path / "a", {"up_proj": factors}, base_model=None, dtype=dtype)
    assert not (tmp_path / "a").exists()


def test_writing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no modules"):
        write_adapter(tmp_path / "a", {}, base_model=None)
    empty = Factors(torch.zeros(0, 3), torch.zeros(2, 0))
    with pytest.raises(AdapterError, match="rank 0"):
        write_adapter(tmp_path / "a", {Q: empty}, base_model=None)


class Layers(nn.Module):
    """Modules whose names end in each other, and look alike as regular expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 5, bias=False)
        self.xq = nn.Linear(6, 5, bias=False)
        self.inner = nn.ModuleDict({"q": nn.Linear(6, 5, bias=False)})
        self.list = nn.ModuleList(nn.Linear(6, 5, bias=False) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


RANKS = {"q": 2, "xq": 3, "inner.q": 3, "list.1": 1, "list.11": 3, "list.2": 4}


@pytest.fixture
def ragged(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """An adapter whose modules have different ranks, and its deltas."""
    generator = torch.Generator().manual_seed(0)
    modules = {
        name: Factors(
            torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator)
        )
        for name, rank in RANKS.items()
    }
    write_adapter(tmp_path / "ragged", modules, base_model=None)
    return tmp_path / "ragged", {name: f.b @ f.a for name, f in modules.items()}


def test_peft_reads_every_rank_and_the_scale_1(ragged: tuple[Path, dict[str, Tensor]]) -> None:
    folder, deltas = ragged
    base = Layers()
    before = {name: base.get_submodule(name).weight.clone() for name in RANKS}  # type: ignore[operator]
    config = LoraConfig.from_pretrained(str(folder))
    config.task_type = None  # the model is no language model
    merged = PeftModel.from_pretrained(base, str(folder), config=config).merge_and_unload()
    for name, delta in deltas.items():
        weight = merged.get_submodule(name).weight
        torch.testing.assert_close(weight - before[name], delta)


def test_vllm_reads_every_rank_and_the_scale_1(ragged: tuple[Path, dict[str, Tensor]]) -> None:
    from vllm.lora.peft_helper import PEFTHelper  # takes seconds to import

    helper = PEFTHelper.from_local_dir(str(ragged[0]), max_position_embeddings=None)
    assert {name: helper.get_rank_and_scaling(name) for name in RANKS} == {
        name: (rank, 1.0) for name, rank in RANKS.items()
    }
