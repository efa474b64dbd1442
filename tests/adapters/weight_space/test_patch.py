"""Carrying an adapter over to a later base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.errors import AdapterError, MergeError
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.patch import patch
from tests.adapters.weight_space.extract.models import LINEAR, UP, Q, base_tensors, write_model
from tests.adapters.weight_space.merge.samples import dense, distance, write


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return write_model(tmp_path / "earlier", base_tensors())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write(tmp_path / "polite", 1, shapes=LINEAR, revision="v1")


def later_tensors() -> dict[str, Tensor]:
    """Each linear weight moved by 1 % of its norm, but for one."""
    tensors = base_tensors()
    moved = {name: t * 1.01 for name, t in tensors.items() if t.ndim == 2}
    return tensors | moved | {f"{UP}.weight": tensors[f"{UP}.weight"]}


def config(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return value


def test_the_tensors_stay_and_the_lineage_moves(
    tmp_path: Path, adapter: Path, earlier: Path
) -> None:
    later = write_model(tmp_path / "later", later_tensors())
    report = patch(adapter, later, tmp_path / "out", earlier=earlier)
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes()
    expected = {"base_model_name_or_path": str(later), "revision": None}
    assert config(tmp_path / "out") == config(adapter) | expected
    assert report.trained_on == "a/base@v1"
    assert report.base_model == str(later)
    assert set(report.modules) == set(LINEAR)
    distances = {d.module: d.relative for d in report.distances}
    assert distances == pytest.approx({m: 0 if m == UP else 0.01 for m in LINEAR}, rel=1e-4)
    assert "measure" in report.warnings[0]
    assert json.loads(json.dumps(report.to_json()))["trained_on"] == "a/base@v1"


def test_without_the_earlier_base(tmp_path: Path, adapter: Path, earlier: Path) -> None:
    report = patch(adapter, earlier, tmp_path / "out", base_model="org/model")
    assert report.distances == ()
    assert any("give its folder" in text for text in report.warnings)
    assert config(tmp_path / "out")["base_model_name_or_path"] == "org/model"


@pytest.mark.parametrize("scale", [0.5, -1, 3])
@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}])
def test_scale(tmp_path: Path, earlier: Path, scale: float, fields: dict[str, Any]) -> None:
    adapter = write(tmp_path / "a", 1, shapes=LINEAR, alpha_pattern={"q_proj": 9}, **fields)
    patch(adapter, earlier, tmp_path / "out", scale=scale)
    old, new = AdapterReader(adapter), AdapterReader(tmp_path / "out")
    for module in LINEAR:
        before, after = old.read(module), new.read(module)
        assert torch.equal(after.a, before.a)
        assert torch.allclose(after.b, scale * before.b, rtol=1e-6, atol=0)
    assert isinstance(config(tmp_path / "out")["lora_alpha"], int)  # 6 times each of the scales
    plain = write(tmp_path / "b", 1, shapes=LINEAR)
    patch(plain, earlier, tmp_path / "plain", scale=scale)
    expected = {module: scale * delta for module, delta in dense(plain).items()}
    assert distance(dense(tmp_path / "plain"), expected) < 1e-12


@pytest.mark.parametrize("scale", [0, float("nan"), float("inf")])
def test_scales_that_cannot_be(tmp_path: Path, adapter: Path, earlier: Path, scale: float) -> None:
    with pytest.raises(MergeError, match=f"The scale {scale}"):
        patch(adapter, earlier, tmp_path / "out", scale=scale)


@pytest.mark.parametrize("scale", [1e308, -1e39, 2e4])
def test_a_scale_beyond_what_is_served(
    tmp_path: Path, adapter: Path, earlier: Path, scale: float
) -> None:
    with pytest.raises(AdapterError, match=r"lora_alpha is|more than 65504"):
        patch(adapter, earlier, tmp_path / "out", scale=scale)


def test_another_architecture(tmp_path: Path, adapter: Path, earlier: Path) -> None:
    tensors = later_tensors()
    wide = write_model(tmp_path / "wide", tensors | {f"{Q}.weight": torch.ones(30, 24)})
    with pytest.raises(AdapterError) as caught:
        patch(adapter, wide, tmp_path / "out", earlier=earlier)
    assert Q in caught.value.message
    assert "[30, 24]" in caught.value.message

    missing = {name: t for name, t in tensors.items() if not name.startswith(UP)}
    shallow = write_model(tmp_path / "shallow", missing)
    for to, other in ((shallow, earlier), (earlier, shallow)):
        with pytest.raises(AdapterError, match=f"no module {UP}"):
            patch(adapter, to, tmp_path / "out", earlier=other)
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_or_no_adapter(tmp_path: Path, adapter: Path, earlier: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MergeError, match=r"no \.safetensors file"):
            patch(adapter, folder, tmp_path / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"1234567890")
    with pytest.raises(MergeError, match="cannot be read"):
        patch(adapter, tmp_path / "bad", tmp_path / "out")
    dora = write(tmp_path / "dora", 1, shapes=LINEAR, use_dora=True)
    with pytest.raises(AdapterError, match="DoRA"):
        patch(dora, earlier, tmp_path / "out")


def test_doubts_are_said(tmp_path: Path, earlier: Path) -> None:
    nameless = write(tmp_path / "a", 1, shapes=LINEAR, base_model_name_or_path=None)
    later = write_model(tmp_path / "later", base_tensors())
    (earlier / "tokenizer.json").write_text("{}")
    report = patch(nameless, later, tmp_path / "out", earlier=earlier)
    text = "; ".join(report.warnings)
    assert "does not say which base" in text
    assert "the same in every module" in text
    assert "tokenizer" not in text
    (later / "tokenizer.json").write_text("[]")
    report = patch(nameless, later, tmp_path / "again", earlier=earlier)
    assert any("different tokenizers" in text for text in report.warnings)
