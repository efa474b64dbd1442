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
    names = {p.name for p in spec.method.parameters}
    assert written.keys() == {"method", "adapters", "rank"} | names


def test_the_seed_is_recorded() -> None:
    value = minimal("dare_linear")
    assert MergeSpec.from_json(value).to_json()["seed"] == 0
    assert MergeSpec.from_json(value | {"seed": 7}).to_json()["seed"] == 7


def test_a_weight_may_be_left_out() -> None:
    spec = MergeSpec.from_json({"method": "sum", "adapters": [{"adapter": "polite"}]})
    assert spec.adapters == (MergeMember(adapter="polite", weight=1.0),)
    assert spec.rank is None


@pytest.mark.parametrize(
    ("value", "param", "words"),
    [
        ([], "merge", ["a list of 0", "JSON object"]),
        ({"adapters": []}, "merge.method", ["null", "ties"]),
        ({"method": "tie", "adapters": []}, "merge.method", ["'tie'", "did you mean 'ties'"]),
        ({"method": "linear", "adapters": []}, "merge.method", ["'linear'", "sum, svd"]),
        ({"method": "sum"}, "merge.adapters", ["missing"]),
        ({"method": "sum", "adapters": ["a"]}, "merge.adapters[0]", ["'a'"]),
        ({"method": "sum", "adapters": [{"weight": 1}]}, "merge.adapters[0].adapter", ["missing"]),
        (
            {"method": "sum", "adapters": [{"adapter": "a", "wieght": 2}]},
            "merge.adapters[0].wieght",
            ["not a field", "'weight'"],
        ),
        ({"method": "sum", "adapters": []}, "merge.adapters", ["at least 1"]),
        ({"method": "sum", "adapters": members(0, 0)}, "merge.adapters", ["at least 1", "has 0"]),
        (
            minimal("wise_ft") | {"adapters": members(1, 1)},
            "merge.adapters",
            ["exactly 1", "has 2"],
        ),
        (
            minimal("model_stock") | {"adapters": members(1)},
            "merge.adapters",
            ["at least 2", "has 1"],
        ),
        (
            minimal("model_stock") | {"adapters": members(1, 0.5)},
            "merge.adapters[1].weight",
            ["no weights", "0.5"],
        ),
        (minimal("sum") | {"rank": 8}, "merge.rank", ["is 8", "leave it out", "'svd'"]),
        (minimal("svd") | {"rank": None}, "merge.rank", ["is null", "integer"]),
        (minimal("svd") | {"rank": 0}, "merge.rank", ["is 0", "greater than or equal to 1"]),
        (minimal("svd") | {"rank": 2.5}, "merge.rank", ["is 2.5", "integer"]),
        (minimal("svd") | {"rank": True}, "merge.rank", ["is true"]),
        (minimal("lines") | {"rank": -1}, "merge.rank", ["is -1"]),
        (minimal("ties") | {"densty": 0.5}, "merge.densty", ["not a field", "'density'"]),
        (minimal("sum") | {"density": 0.5}, "merge.density", ["not a field"]),
        (minimal("ties") | {"density": 0}, "merge.density", ["is 0", "greater than 0"]),
        (minimal("ties") | {"density": 1.1}, "merge.density", ["1.1", "less than or equal to 1"]),
        (minimal("ties") | {"density": "0.5"}, "merge.density", ["'0.5'"]),
        (minimal("ties") | {"density": None}, "merge.density", ["is null"]),
        (minimal("ties") | {"lambda": float("inf")}, "merge.lambda", ["Infinity", "finite"]),
        (minimal("dare_ties") | {"drop": 1}, "merge.drop", ["is 1", "less than 1"]),
        (minimal("dare_ties") | {"seed": 1.5}, "merge.seed", ["1.5", "integer"]),
        (minimal("dare_ties") | {"seed": -1}, "merge.seed", ["-1", "greater than or equal to 0"]),
        (minimal("slack") | {"slack": 2}, "merge.slack", ["is 2", "less than or equal to 1"]),
        (minimal("lines") | {"layers": 0}, "merge.layers", ["is 0"]),
        ({"method": "wise_ft", "adapters": members(1)}, "merge.a", ["missing"]),
        (minimal("wise_ft") | {"a": 0}, "merge.a", ["is 0", "greater than 0"]),
    ],
)
def test_refusals_name_the_value_and_the_remedy(
    value: object, param: str, words: list[str]
) -> None:
    with pytest.raises(MergeError) as caught:
        MergeSpec.from_json(value)
    assert caught.value.code == "invalid_merge"
    assert caught.value.param == param
    for word in (param, *words):
        assert word in caught.value.message


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 10**400, True, "1", None])
def test_weights_are_finite_numbers(weight: Any) -> None:
    with pytest.raises(MergeError, match=r"adapters\[0\].weight is .*; it should be a .*number"):
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
