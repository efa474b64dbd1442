"""The JSON of a merge: what it fills in, and that each refusal names the value and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import MergeError
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import METHODS, MergeMember, MergeSpec, RankRule, merge
from adapters.weight_space.merge.__main__ import table
from tests.adapters.weight_space.merge.samples import SHAPES, Q, run, write


def members(*weights: float) -> list[dict[str, object]]:
    return [{"adapter": f"a{i}", "weight": w} for i, w in enumerate(weights)]


def minimal(method: str) -> dict[str, Any]:
    """The least that the method needs."""
    entry = next(m for m in METHODS if m.name == method)
    value: dict[str, Any] = {"method": method, "adapters": members(*[1.0] * entry.least)}
    value |= {p.name: 1.0 for p in entry.parameters if p.required}
    if entry.rank is RankRule.REQUIRED:
        value["rank"] = 8
    return value


@pytest.mark.parametrize("method", [m.name for m in METHODS])
def test_round_trip_with_every_default_filled_in(method: str) -> None:
    spec = MergeSpec.from_json(minimal(method))
    written = spec.to_json()
    assert MergeSpec.from_json(json.loads(json.dumps(written))) == spec
    names = {p.name for p in spec.entry.parameters}
    assert written.keys() == {"method", "adapters", "rank"} | names


def test_the_seed_is_recorded() -> None:
    value = minimal("dare_linear")
    assert MergeSpec.from_json(value).to_json()["seed"] == 0
    assert MergeSpec.from_json(value | {"seed": 7}).to_json()["seed"] == 7


def test_a_weight_may_be_left_out() -> None:
    spec = MergeSpec.from_json({"method": "sum", "adapters": [{"adapter": "polite"}]})
    assert spec.adapters == (MergeMember("polite", 1.0),)
    assert spec.rank is None


@pytest.mark.parametrize(
    ("value", "param", "words"),
    [
        ([], None, ["the merge is []", "JSON object"]),
        ({"adapters": []}, "method", ["method is None", "'ties'"]),
        ({"method": "tie", "adapters": []}, "method", ["'tie'", "did you mean 'ties'"]),
        ({"method": "linear", "adapters": []}, "method", ["'linear'", "'sum', 'svd'"]),
        ({"method": "sum"}, "adapters", ["adapters is None", "polite"]),
        ({"method": "sum", "adapters": ["a"]}, None, ["adapters[0] is 'a'", "JSON object"]),
        ({"method": "sum", "adapters": [{"weight": 1}]}, "adapters[0].adapter", ["None", "name"]),
        (
            {"method": "sum", "adapters": [{"adapter": "a", "wieght": 2}]},
            "adapters[0]",
            ["'wieght'", "'weight'"],
        ),
        ({"method": "sum", "adapters": []}, "adapters", ["at least 1", "not 0"]),
        ({"method": "sum", "adapters": members(0, 0)}, "adapters", ["at least 1", "not 0"]),
        (minimal("wise_ft") | {"adapters": members(1, 1)}, "adapters", ["exactly 1", "not 2"]),
        (minimal("model_stock") | {"adapters": members(1)}, "adapters", ["at least 2", "not 1"]),
        (
            minimal("model_stock") | {"adapters": members(1, 0.5)},
            "adapters[1].weight",
            ["no weights", "'a1'", "0.5"],
        ),
        (minimal("sum") | {"rank": 8}, "rank", ["rank of 'sum' is 8", "null", "'svd'"]),
        (minimal("svd") | {"rank": None}, "rank", ["is None", "at least 1"]),
        (minimal("svd") | {"rank": 0}, "rank", ["is 0", "at least 1"]),
        (minimal("svd") | {"rank": 2.5}, "rank", ["is 2.5", "whole number"]),
        (minimal("svd") | {"rank": True}, "rank", ["is True"]),
        (minimal("lines") | {"rank": -1}, "rank", ["is -1", "or null"]),
        (minimal("ties") | {"densty": 0.5}, "densty", ["'densty'", "'density'"]),
        (minimal("sum") | {"density": 0.5}, "density", ["'sum' has no parameter", "none"]),
        (minimal("ties") | {"density": 0}, "density", ["density is 0", "> 0 and <= 1"]),
        (minimal("ties") | {"density": 1.1}, "density", ["1.1"]),
        (minimal("ties") | {"density": "0.5"}, "density", ["'0.5'"]),
        (minimal("ties") | {"density": None}, "density", ["density is None"]),
        (minimal("ties") | {"lambda": float("inf")}, "lambda", ["lambda is inf", "finite"]),
        (minimal("dare_ties") | {"drop": 1}, "drop", ["drop is 1", ">= 0 and < 1"]),
        (minimal("dare_ties") | {"seed": 1.5}, "seed", ["1.5", "whole"]),
        (minimal("dare_ties") | {"seed": -1}, "seed", ["-1", ">= 0"]),
        (minimal("slack") | {"slack": 2}, "slack", ["slack is 2", "<= 1"]),
        (minimal("lines") | {"layers": 0}, "layers", ["layers is 0", "or null"]),
        ({"method": "wise_ft", "adapters": members(1)}, "a", ["needs a", "the fine-tune"]),
        (minimal("wise_ft") | {"a": 0}, "a", ["a is 0", "> 0 and <= 1"]),
    ],
)
def test_refusals(value: object, param: str | None, words: list[str]) -> None:
    with pytest.raises(MergeError) as caught:
        MergeSpec.from_json(value)
    assert caught.value.code == "invalid_merge"
    assert caught.value.param == param
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 10**400, True, "1", None])
def test_weights_are_finite_numbers(weight: Any) -> None:
    with pytest.raises(MergeError, match=r"the weight of 'a0' is .*; give a finite number"):
        MergeSpec.from_json({"method": "sum", "adapters": members(weight)})


def test_adapters_of_different_shapes_do_not_merge(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 1)
    wide = write(tmp_path / "wide", 1, shapes={**SHAPES, Q: (24, 32)})
    with pytest.raises(MergeError) as caught:
        run(tmp_path / "m", "sum", [one, wide])
    for word in ("'wide'", "'one'", Q, "[24, 32]", "[24, 24]", "one base model"):
        assert word in caught.value.message
    assert not (tmp_path / "m").exists()


def test_as_many_readers_as_adapters(tmp_path: Path) -> None:
    spec = MergeSpec.from_json({"method": "sum", "adapters": members(1, 1)})
    with pytest.raises(ValueError, match="shorter"):
        merge(spec, [AdapterReader(write(tmp_path / "one", 1))], tmp_path / "m")


def test_every_method_cites_its_paper_and_is_in_the_table() -> None:
    assert len({m.name for m in METHODS}) == len(METHODS)
    for method in METHODS:
        assert "arXiv:" in method.citation
        assert f"| `{method.name}` | `{method.formula}` | {method.citation} |" in table()
        assert "|" not in method.formula + method.citation
