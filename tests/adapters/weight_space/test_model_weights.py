"""Reading and comparing whole models' tensors a block at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters.weight_space.distance import difference
from adapters.weight_space.model_weights import BLOCK, ModelWeights

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8]


def model(folder: Path, **tensors: Tensor) -> ModelWeights:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelWeights(folder)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (5, 7), (2, 3, 4), (700, 900)])
def test_blocks_are_the_tensor(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (100 * torch.randn(shape)).to(dtype)
    weights = model(tmp_path / "m", before=torch.ones(3), tensor=tensor, z=torch.ones(2))
    blocks = list(weights.blocks("tensor"))
    assert all(block.numel() <= BLOCK for _, block in blocks)
    assert (len(blocks) > 1) == (math.prod(shape) > BLOCK)
    assert [row for row, _ in blocks] == [
        sum(len(b) for _, b in blocks[:i]) for i in range(len(blocks))
    ]
    if blocks:
        assert torch.equal(torch.cat([block for _, block in blocks]).view(shape), tensor)
    else:
        assert not tensor.numel()


def test_names_are_sorted(tmp_path: Path) -> None:
    assert list(model(tmp_path / "m", b=torch.ones(1), a=torch.ones(1)).tensors) == ["a", "b"]


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32,) * 2])
def test_differences(tmp_path: Path, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Of models in different types as well, whose blocks have different sizes in bytes."""
    one, two = torch.randn(700, 900).to(dtypes[0]), torch.randn(700, 900).to(dtypes[1])
    into = torch.empty(700, 900)
    old, new = model(tmp_path / "old", x=one), model(tmp_path / "new", y=two)
    distance = difference(old, new, "x", new_name="y", into=into)
    assert torch.equal(into, two.float() - one.float())
    expected = float((two.double() - one.double()).norm() / one.double().norm())
    assert distance.relative == pytest.approx(expected, rel=1e-6)


def test_doubles_are_subtracted_as_such(tmp_path: Path) -> None:
    one = torch.ones(3, dtype=torch.float64)
    old, new = model(tmp_path / "old", x=one), model(tmp_path / "new", x=one + 1e-12)
    assert difference(old, new, "x").relative == pytest.approx(1e-12, rel=1e-3)


def test_distances_without_a_scale(tmp_path: Path) -> None:
    old = model(tmp_path / "old", zero=torch.zeros(2), same=torch.ones(2), bad=torch.ones(2))
    new = model(
        tmp_path / "new", zero=torch.ones(2), same=torch.ones(2), bad=torch.tensor([1, math.nan])
    )
    found = {name: difference(old, new, name) for name in ("zero", "same", "bad")}
    assert {name: d.relative for name, d in found.items()} == {"zero": None, "same": 0, "bad": None}
    assert {name for name, d in found.items() if d.changed} == {"zero", "bad"}
