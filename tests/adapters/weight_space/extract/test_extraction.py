"""Extraction against dense float64 computations, on the zoo's base model and on small ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapters.weight_space.extract import ExtractSpec, extract
from adapters.weight_space.factors import AdapterReader
from tests.adapters.weight_space.extract.conftest import FineTune
from tests.adapters.weight_space.extract.models import (
    HEAD,
    LINEAR,
    NORM,
    UP,
    Q,
    base_tensors,
    changed,
    deltas,
    write_model,
)
from tests.adapters.weight_space.merge.samples import distance, products


def test_a_merged_adapter_comes_back(tmp_path: Path, zoo_tuned: FineTune) -> None:
    report = extract(ExtractSpec(rank=16), zoo_tuned.base, zoo_tuned.tuned, tmp_path / "out")
    expected = deltas(zoo_tuned.base, zoo_tuned.tuned)
    assert len(expected) == 28
    found = products(tmp_path / "out")  # alpha = r, so the scale is 1
    for module, delta in expected.items():
        assert distance({module: found[module]}, {module: delta}) < 1e-5
    assert report.unchanged == 0
    assert not report.other
    assert not report.warnings
    assert report.energy == pytest.approx(1, abs=1e-9)
    assert report.error < 1e-5


def test_peft_reads_the_fine_tune_in_it(tmp_path: Path, zoo_tuned: FineTune) -> None:
    """Ranks differ by module, so the patterns in the configuration count."""
    report = extract(ExtractSpec(energy=1 - 1e-9), zoo_tuned.base, zoo_tuned.tuned, tmp_path / "a")
    assert report.base_model == str(zoo_tuned.base)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        tuned = AutoModelForCausalLM.from_pretrained(zoo_tuned.tuned)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(zoo_tuned.base)
        plain = base(ids).logits
        logits = PeftModel.from_pretrained(base, tmp_path / "a")(ids).logits
    assert float((logits - tuned).abs().max()) < 1e-3 * float((plain - tuned).abs().max())


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_is_that_of_a_dense_decomposition(
    tmp_path: Path, zoo_tuned: FineTune, energy: float
) -> None:
    report = extract(ExtractSpec(energy=energy), zoo_tuned.base, zoo_tuned.tuned, tmp_path / "out")
    expected = deltas(zoo_tuned.base, zoo_tuned.tuned)
    kept = total = 0.0
    for module in report.modules:
        energies = torch.linalg.svdvals(expected[module.module]).square()
        shares = energies.cumsum(0) / energies.sum()
        assert module.rank == int((shares < energy).sum()) + 1
        assert module.energy == pytest.approx(float(shares[module.rank - 1]), abs=1e-9)
        assert module.error == pytest.approx(math.sqrt(1 - module.energy), rel=1e-4)
        kept += float(energies[: module.rank].sum())
        total += float(energies.sum())
    assert report.energy == pytest.approx(kept / total, abs=1e-9)
    assert report.error == pytest.approx(math.sqrt(1 - kept / total), rel=1e-4)
    reader = AdapterReader(tmp_path / "out")
    assert {m.module: m.rank for m in report.modules} == {m: reader.rank(m) for m in reader.modules}


@pytest.mark.parametrize("model", ["zoo_tuned", "small"])
def test_shards_are_one_model(tmp_path: Path, model: str, request: pytest.FixtureRequest) -> None:
    tuned: FineTune = request.getfixturevalue(model)
    spec = ExtractSpec(rank=4, base_model="base")
    for name, folder in (("whole", tuned.tuned), ("parts", tuned.sharded)):
        extract(spec, tuned.base, folder, tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_only_what_changed(tmp_path: Path) -> None:
    before = base_tensors()
    after = before | {f"{Q}.weight": changed(before)[f"{Q}.weight"]}
    base, tuned = write_model(tmp_path / "b", before), write_model(tmp_path / "t", after)
    report = extract(ExtractSpec(energy=0.99), base, tuned, tmp_path / "out")
    assert [m.module for m in report.modules] == list(products(tmp_path / "out")) == [Q]
    assert report.unchanged == len(LINEAR) - 1
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["lora_alpha"] == config["r"]


def test_a_rank_beyond_the_change_is_not_filled_up(tmp_path: Path, small: FineTune) -> None:
    report = extract(ExtractSpec(rank=500), small.base, small.tuned, tmp_path / "out")
    assert {m.module: m.rank for m in report.modules}.keys() == LINEAR.keys()
    assert max(m.rank for m in report.modules) <= 24
    assert report.error < 1e-6


def test_the_bound_of_the_rank_is_reported(tmp_path: Path, small: FineTune) -> None:
    spec = ExtractSpec(energy=0.999, max_rank=2)
    report = extract(spec, small.base, small.tuned, tmp_path / "out")
    assert {m.rank for m in report.modules} == {2}
    assert len(report.warnings) == 1
    assert "max_rank 2 keeps 3 of 3 modules below the energy 0.999" in report.warnings[0]


def test_large_modules_are_searched(tmp_path: Path) -> None:
    """Above 512 the search is randomized; the energy is still that of a dense decomposition."""
    generator = torch.Generator().manual_seed(3)
    name = f"{UP}.weight"
    base = {name: torch.randn(700, 600, generator=generator)}
    b = torch.randn(700, 30, generator=generator) * torch.logspace(0, -2, 30)
    change = b @ torch.randn(30, 600, generator=generator) + 0.001 * torch.randn(
        700, 600, generator=generator
    )
    before = write_model(tmp_path / "b", base)
    after = write_model(tmp_path / "t", {name: base[name] + 0.01 * change})
    (module,) = extract(ExtractSpec(energy=0.98), before, after, tmp_path / "out").modules
    delta = deltas(before, after)[UP]
    energies = torch.linalg.svdvals(delta).square()
    shares = energies.cumsum(0) / energies.sum()
    assert module.rank == int((shares < 0.98).sum()) + 1
    assert module.energy == pytest.approx(float(shares[module.rank - 1]), abs=1e-5)
    assert distance(products(tmp_path / "out"), {UP: delta}) == pytest.approx(
        math.sqrt(1 - module.energy), rel=1e-3
    )


def test_the_same_seed_the_same_adapter(tmp_path: Path, small: FineTune) -> None:
    for name in ("one", "two"):
        extract(ExtractSpec(energy=0.9, seed=5), small.base, small.tuned, tmp_path / name)
    one, two = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_errors_are_those_of_the_numbers_stored(
    tmp_path: Path, small: FineTune, dtype: str
) -> None:
    spec = ExtractSpec.model_validate({"rank": 24, "dtype": dtype})
    report = extract(spec, small.base, small.tuned, tmp_path / "out")
    error = distance(products(tmp_path / "out"), deltas(small.base, small.tuned))
    assert report.error == pytest.approx(error, rel=1e-3)
    assert max(m.error_unrounded for m in report.modules) < 1e-6 < report.error < 1e-2


def test_models_of_different_dtypes(tmp_path: Path, small: FineTune) -> None:
    half = {name: t.bfloat16() for name, t in changed(base_tensors()).items() if t.ndim == 2}
    full = {name: t for name, t in base_tensors().items() if t.ndim == 2}
    base, tuned = write_model(tmp_path / "b", full), write_model(tmp_path / "t", half)
    spec = ExtractSpec(rank=24, ignore_other_changes=True)
    report = extract(spec, base, tuned, tmp_path / "out")
    assert any("float32 and the tuned model as bfloat16" in text for text in report.warnings)
    assert distance(products(tmp_path / "out"), deltas(base, tuned)) < 1e-5


def test_progress_counts_every_tensor(tmp_path: Path, small: FineTune) -> None:
    calls: list[tuple[int, int, str]] = []
    spec = ExtractSpec(rank=2)
    extract(spec, small.base, small.tuned, tmp_path / "o", lambda *call: calls.append(call))
    total = len(base_tensors())
    assert [(done, of) for done, of, _ in calls] == [(i + 1, total) for i in range(total)]
    assert {name for _, _, name in calls} >= {NORM, HEAD, Q, UP}


def test_the_report_is_json(tmp_path: Path, small: FineTune) -> None:
    report = extract(ExtractSpec(rank=2), small.base, small.tuned, tmp_path / "out")
    value = json.loads(json.dumps(report.to_json()))
    assert value["modules"][0]["module"] == HEAD
    assert value["parameters"] == sum(2 * (h + w) for h, w in LINEAR.values())
    assert value["adapter_bytes"] == (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
