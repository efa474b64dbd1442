"""Methods that scale deltas and add them up: compared with dense sums in float64."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.merge.methods.interpolation import depths
from tests.adapters.weight_space.merge.samples import (
    HEAD,
    SHAPES,
    UP,
    Q,
    best,
    dense,
    distance,
    run,
    write,
)

EXACT = 1e-6
WEIGHTS = st.floats(-3, 3, allow_nan=False).filter(lambda w: abs(w) > 1e-3)


def summed(folders: list[Path], weights: list[float]) -> dict[str, Tensor]:
    deltas = [dense(folder) for folder in folders]
    return {
        module: torch.stack(
            [w * d.get(module, torch.zeros(shape)) for w, d in zip(weights, deltas, strict=True)]
        ).sum(0)
        for module, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Different ranks and scales; the second lacks a module, the third is rank-stabilized."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        write(root / "one", 1),
        write(root / "two", 2, rank=3, alpha=16, shapes={Q: SHAPES[Q], HEAD: SHAPES[HEAD]}),
        write(root / "three", 3, rank=5, alpha=8, use_rslora=True, dtype=torch.bfloat16),
    ]


@settings(max_examples=25, deadline=None)
@given(weights=st.lists(WEIGHTS, min_size=3, max_size=3))
def test_the_sum_is_exact(
    folders: list[Path], tmp_path_factory: pytest.TempPathFactory, weights: list[float]
) -> None:
    found, report = run(tmp_path_factory.mktemp("out") / "m", "sum", folders, weights)
    assert distance(found, summed(folders, weights)) < EXACT
    assert (report.rank, report.energy) == (4 + 3 + 5, 1.0)
    assert {m.module: m.rank for m in report.modules} == {Q: 12, UP: 9, HEAD: 12}


@pytest.mark.parametrize("method", ["sum", "svd"])
def test_the_order_does_not_matter(tmp_path: Path, folders: list[Path], method: str) -> None:
    rest = {"rank": 6} if method == "svd" else {}
    weights = dict(zip(folders, (0.5, -1.0, 2.0), strict=True))
    first, _ = run(tmp_path / "first", method, folders, list(weights.values()), **rest)
    for number, order in enumerate(permutations(folders)):
        other, _ = run(tmp_path / str(number), method, order, [weights[f] for f in order], **rest)
        assert distance(other, first) < EXACT


def test_weight_0_removes(tmp_path: Path, folders: list[Path]) -> None:
    found, report = run(tmp_path / "m", "sum", folders, [1.0, 0.0, 0.0])
    alone = folders[0]
    assert report.rank == 4
    assert distance(found, dense(alone)) < EXACT


def test_one_adapter_with_weight_1_is_itself(tmp_path: Path, folders: list[Path]) -> None:
    for folder in folders:
        found, _ = run(tmp_path / folder.name, "sum", [folder])
        assert distance(found, dense(folder)) < EXACT


@pytest.mark.parametrize("rank", [1, 5, 7, 100])
def test_svd_is_the_best_approximation(tmp_path: Path, folders: list[Path], rank: int) -> None:
    weights = [1.0, 0.7, -0.4]
    found, report = run(tmp_path / "m", "svd", folders, weights, rank=rank)
    target = summed(folders, weights)
    expected = {module: best(delta, rank) for module, delta in target.items()}
    assert distance(found, expected) < 1e-5
    kept = sum(float(delta.square().sum()) for delta in expected.values())
    total = sum(float(delta.square().sum()) for delta in target.values())
    assert report.energy == pytest.approx(kept / total, abs=1e-6)
    for module in report.modules:
        assert module.rank <= min(rank, 12)
        share = float(expected[module.module].square().sum() / target[module.module].square().sum())
        assert module.energy == pytest.approx(share, abs=1e-6)


def test_wise_ft(tmp_path: Path, folders: list[Path]) -> None:
    found, report = run(tmp_path / "m", "wise_ft", folders[:1], a=0.3)
    expected = {module: 0.3 * delta for module, delta in dense(folders[0]).items()}
    assert distance(found, expected) < EXACT
    assert report.rank == 4
    lower, report = run(tmp_path / "r", "wise_ft", folders[:1], a=0.3, rank=2)
    assert report.rank == 2
    assert distance(lower, {m: best(d, 2) for m, d in expected.items()}) < 1e-5


def test_lines(tmp_path: Path, folders: list[Path]) -> None:
    found, _ = run(tmp_path / "m", "lines", folders, [1.0, 2.0, -1.0], a=0.2, b=0.6, layers=5)
    target = summed(folders, [1.0, 2.0, -1.0])
    scales = {Q: 0.2, UP: 0.2 + 0.6 * 1 / 4, HEAD: 0.2}
    assert distance(found, {m: scales[m] * d for m, d in target.items()}) < EXACT


def test_depths() -> None:
    """As `LiNeS_scaling` of wang-kee/LiNeS: layers by their number, everything else by alpha."""
    layers = ["h.0.a", "h.1.a", "h.3.a.7.b", "vision.x.1.q", "vision.x.0.q"]
    modules = [*layers, "lm_head", "connector.fc"]
    assert depths(modules, None) == {
        "h.0.a": 0,
        "h.1.a": 1 / 3,
        "h.3.a.7.b": 1,
        "lm_head": 0,
        "connector.fc": 0,
        "vision.x.0.q": 0,
        "vision.x.1.q": 1,
    }
    assert depths(["h.2.a"], 5) == {"h.2.a": 0.5}
    assert depths(["h.0.a"], None) == {"h.0.a": 0}
    with pytest.raises(MergeError, match=r"h\.3\.a\.7\.b is in layer 3, but layers is 3"):
        depths(modules, 3)


def test_model_stock(tmp_path: Path) -> None:
    # Fine-tunes of one origin: a shared part, so the cosines are well above 0.
    shared = write(tmp_path / "shared", 9, alpha=8)
    parts = [write(tmp_path / f"part{seed}", seed, alpha=4) for seed in range(3)]
    folders = []
    for number, part in enumerate(parts):
        run(tmp_path / f"tuned{number}", "sum", [shared, part])
        folders.append(tmp_path / f"tuned{number}")
    found, report = run(tmp_path / "m", "model_stock", folders)
    deltas = [dense(folder) for folder in folders]
    expected = {}
    for module in SHAPES:
        flat = [delta[module].flatten() for delta in deltas]
        cosines = [
            float(torch.cosine_similarity(flat[i], flat[j], 0)) for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        cosine = sum(cosines) / 3
        assert cosine > 0.3
        t = 3 * cosine / (1 + 2 * cosine)
        expected[module] = t * torch.stack([delta[module] for delta in deltas]).mean(0)
    assert distance(found, expected) < EXACT
    assert report.rank == 3 * 8


@pytest.mark.parametrize("weight", [-1.0, -0.5])
def test_model_stock_beyond_a_right_angle_is_the_base(tmp_path: Path, weight: float) -> None:
    one, part = write(tmp_path / "one", 1), write(tmp_path / "part", 2)
    run(tmp_path / "against", "sum", [one, part], [weight, 0.3])
    with pytest.raises(MergeError, match="zero in every module"):
        run(tmp_path / "m", "model_stock", [one, tmp_path / "against"])


def test_model_stock_of_one_adapter_twice_is_itself(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 1)
    found, _ = run(tmp_path / "m", "model_stock", [one, one])
    assert distance(found, dense(one)) < EXACT


def test_a_module_of_one_adapter_counts_as_zero_in_the_others(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 1), write(tmp_path / "two", 1, shapes={Q: SHAPES[Q]})
    found, _ = run(tmp_path / "m", "model_stock", [one, two])
    # Where both change it they agree wholly; elsewhere the cosine is 0, so nothing is left.
    assert found.keys() == {Q}
    assert distance(found, {Q: dense(two)[Q]}) < EXACT


def test_the_result_names_the_base_model_if_the_adapters_agree(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 1), write(tmp_path / "two", 2)
    other = write(tmp_path / "other", 3, base_model_name_or_path="b/base")
    _, report = run(tmp_path / "same", "sum", [one, two])
    assert report.warnings == ()
    config = json.loads((tmp_path / "same" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "a/base"
    _, report = run(tmp_path / "mixed", "sum", [one, other])
    assert "'a/base', 'b/base'" in report.warnings[0]
    config = json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None


def test_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path, folders: list[Path]) -> None:
    for number, (method, rest) in enumerate({"sum": {}, "dare_linear": {"rank": 2}}.items()):
        with pytest.raises(MergeError, match=r"too large for float32; give smaller weights"):
            run(tmp_path / str(number), method, folders[:1], [1e39], **rest)
        assert not (tmp_path / str(number)).exists()
    # Finite, and beyond what a server takes.
    with pytest.raises(MergeError, match="numbers beyond 65504"):
        run(tmp_path / "large", "sum", folders[:1], [1e30])
    assert not (tmp_path / "large").exists()
    assert math.isfinite(run(tmp_path / "fine", "sum", folders[:1], [100])[1].energy)
