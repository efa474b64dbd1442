"""What an extraction may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.errors import MergeError
from adapters.weight_space.extract import ExtractSpec
from composer.validation import validate


def test_round_trip() -> None:
    for spec in (
        ExtractSpec(rank=16),
        ExtractSpec(energy=0.95, max_rank=64, ignore_other_changes=True, dtype="bfloat16"),
        ExtractSpec(rank=4, seed=7, base_model="a/b"),
    ):
        value = spec.model_dump(mode="json")
        assert validate(ExtractSpec, value, "extract", MergeError) == spec


@pytest.mark.parametrize(
    ("value", "param", "words"),
    [
        ({}, "extract", ["either 'energy' or 'rank'"]),
        ({"energy": 0.9, "rank": 3}, "extract", ["either 'energy' or 'rank'"]),
        ({"energy": 0}, "extract.energy", ["is 0", "greater than 0"]),
        ({"energy": 1.5}, "extract.energy", ["is 1.5", "less than or equal to 1"]),
        ({"energy": "much"}, "extract.energy", ["'much'", "number"]),
        ({"energy": True}, "extract.energy", ["true", "number"]),
        ({"energy": float("nan")}, "extract.energy", ["NaN"]),
        ({"rank": 0}, "extract.rank", ["is 0", "greater than or equal to 1"]),
        ({"rank": 2.5}, "extract.rank", ["2.5", "integer"]),
        ({"rank": 2, "max_rank": 0}, "extract.max_rank", ["is 0", "greater than or equal to 1"]),
        ({"rank": 2, "bits": "8,3,2"}, "extract.bits", ["not a field", "energy, rank, max_rank"]),
        ({"rank": 2, "dtype": "int8"}, "extract.dtype", ["'int8'", "'bfloat16'"]),
        ({"rank": 2, "sead": 1}, "extract.sead", ["not a field", "did you mean 'seed'?"]),
        ({"rank": 2, "seed": -1}, "extract.seed", ["is -1", "greater than or equal to 0"]),
        ({"rank": 2, "seed": 2**63}, "extract.seed", [str(2**63), "less than or equal to"]),
        ([], "extract", ["a list of 0"]),
    ],
)
def test_refusals_name_the_value_and_the_remedy(value: Any, param: str, words: list[str]) -> None:
    with pytest.raises(MergeError) as caught:
        validate(ExtractSpec, value, "extract", MergeError)
    assert caught.value.param == param
    for word in (param, *words):
        assert word in caught.value.message
