"""What an adapter cannot hold is refused by name, and listed where that is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.extract import ExtractReport, ExtractSpec, extract
from tests.adapters.weight_space.extract.conftest import FineTune
from tests.adapters.weight_space.extract.models import (
    EMBEDDING,
    HEAD,
    NORM,
    Q,
    base_tensors,
    changed,
    write_model,
)
from tests.adapters.weight_space.merge.samples import products

Tensors = dict[str, Tensor]


def run(
    tmp_path: Path,
    after: Tensors,
    before: Tensors | None = None,
    *,
    ignore: bool = False,
    model_type: str = "llama",
) -> ExtractReport:
    base = write_model(tmp_path / "base", before or base_tensors(), model_type=model_type)
    tuned = write_model(tmp_path / "tuned", after)
    spec = ExtractSpec(rank=4, ignore_other_changes=ignore)
    return extract(spec, base, tuned, tmp_path / "out")


def refused(
    tmp_path: Path, after: Tensors, before: Tensors | None = None, model_type: str = "llama"
) -> str:
    with pytest.raises(MergeError) as caught:
        run(tmp_path, after, before, model_type=model_type)
    assert not (tmp_path / "out").exists()
    return caught.value.message


def grown(tensors: Tensors) -> Tensors:
    """With two more tokens."""
    rows = {name: torch.cat([tensors[name], torch.ones(2, 24)]) for name in (EMBEDDING, WEIGHT)}
    return tensors | rows


WEIGHT = f"{HEAD}.weight"
OTHER: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, str]]] = {
    "norm": (lambda t: t | {NORM: t[NORM] * 1.01}, {NORM: "norm, changed by 0.01"}),
    "one bit": (
        lambda t: t | {NORM: t[NORM].nextafter(torch.tensor(2.0))},
        {NORM: "norm, changed by 1.2e-07"},
    ),
    "bias": (lambda t: t | {f"{Q}.bias": torch.ones(24)}, {f"{Q}.bias": "bias, changed"}),
    "embedding": (
        lambda t: t | {EMBEDDING: t[EMBEDDING] * 1.5},
        {EMBEDDING: "embedding, changed by 0.5"},
    ),
    "tokens": (
        grown,
        {EMBEDDING: "vocabulary, [12, 24] to [14, 24]", WEIGHT: "vocabulary, [12, 24] to [14, 24]"},
    ),
    "buffer": (
        lambda t: t | {"model.rotary.inv_freq": torch.full((4,), 1.25)},
        {"model.rotary.inv_freq": "other, changed by 0.25"},
    ),
    "number": (
        lambda t: t | {"model.steps": torch.tensor(14)},
        {"model.steps": "other, changed by 1"},
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_changes(tmp_path: Path, case: str) -> None:
    change, expected = OTHER[case]
    message = refused(tmp_path / "refused", change(changed(base_tensors())))
    assert "--ignore-other-changes" in message
    for name, what in expected.items():
        assert f"{name} ({what})" in message

    report = run(tmp_path / "ignored", change(changed(base_tensors())), ignore=True)
    assert {c.name for c in report.other} == expected.keys()
    assert len(report.warnings) == len(expected)
    for name, what in expected.items():
        assert any(f"{name} ({what}) is not in the adapter" == text for text in report.warnings)
    assert set(products(tmp_path / "ignored" / "out")).isdisjoint({n[:-7] for n in expected})


def test_minus_zero_is_no_change(tmp_path: Path) -> None:
    after = changed(base_tensors()) | {f"{Q}.bias": -torch.zeros(24)}
    assert run(tmp_path, after).other == ()


def test_the_same_model_twice(tmp_path: Path) -> None:
    assert "nothing to extract" in refused(tmp_path, base_tensors())


def test_another_architecture(tmp_path: Path) -> None:
    after = changed(base_tensors())
    extra = "model.layers.2.mlp.up_proj.weight"
    message = refused(tmp_path / "more", after | {extra: torch.ones(2, 2)})
    assert f"only the tuned model has {extra}" in message
    less = {name: t for name, t in after.items() if name != f"{Q}.weight"}
    assert f"only the base has {Q}.weight" in refused(tmp_path / "less", less)
    wide = after | {f"{Q}.weight": torch.ones(24, 25), NORM: torch.ones(25)}
    message = refused(tmp_path / "wide", wide)
    assert f"{Q}.weight ([24, 24] and [24, 25])" in message
    assert f"{NORM} ([24] and [25])" in message


def test_transposed_weights(tmp_path: Path) -> None:
    assert "gpt2" in refused(tmp_path, changed(base_tensors()), model_type="gpt2")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_none(tmp_path: Path, bad: float) -> None:
    after = changed(base_tensors())
    after[f"{Q}.weight"][3, 4] = bad
    assert f"{Q}.weight holds NaN or infinity" in refused(tmp_path, after)


def test_packed_weights(tmp_path: Path) -> None:
    before = base_tensors() | {"x.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}
    message = refused(tmp_path, before, before)
    assert "x.weight" in message
    assert "F8_E4M3" in message


def broken(folder: Path, small: FineTune) -> str:
    with pytest.raises(MergeError) as caught:
        extract(ExtractSpec(rank=2), small.base, folder, folder.parent / "out")
    assert str(folder) in caught.value.message
    return caught.value.message


def test_folders_that_hold_no_model(tmp_path: Path, small: FineTune) -> None:
    assert "there is no folder" in broken(tmp_path / "nowhere", small)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "pytorch_model.bin").write_bytes(b"")
    assert "no .safetensors file" in broken(empty, small)
    adapter = tmp_path / "adapter"
    extract(ExtractSpec(rank=2), small.base, small.tuned, adapter)
    assert "holds an adapter, not a model" in broken(adapter, small)


def test_damaged_models(tmp_path: Path, small: FineTune) -> None:
    file = small.tuned / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], b"\xff" * 8 + whole[8:]):
        file.write_bytes(damaged)
        assert "cannot be read" in broken(small.tuned, small)

    shard = small.sharded / "model-00002-of-00003.safetensors"
    shard.rename(tmp_path / "away")
    assert "lacks model-00002-of-00003.safetensors" in broken(small.sharded, small)
    index = small.sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../base/model.safetensors"}}))
    assert "../base/model.safetensors" in broken(small.sharded, small)
    index.write_text("{}")
    assert "no readable weight_map" in broken(small.sharded, small)
    index.unlink()
    (small.sharded / "copy.safetensors").write_bytes(
        (small.sharded / "model-00001-of-00003.safetensors").read_bytes()
    )
    assert "twice, in copy.safetensors and" in broken(small.sharded, small)
