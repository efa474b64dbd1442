"""What an extraction may be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.errors import MergeError
from adapters.weight_space.extract import BitGroup, ExtractSpec, parse_bits
from adapters.weight_space.extract.extract_spec import format_bits, rows_of_groups


def test_round_trip() -> None:
    for spec in (
        ExtractSpec(rank=16),
        ExtractSpec(energy=0.95, max_rank=64, ignore_other_changes=True, dtype="bfloat16"),
        ExtractSpec(rank=4, bits=parse_bits("8,3,2"), seed=7, base_model="a/b"),
    ):
        assert ExtractSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_bits() -> None:
    groups = (BitGroup(8, 2), BitGroup(3, 32), BitGroup(2, None))
    assert parse_bits("8,3,2") == parse_bits("8x2, 3x32, 2") == groups
    assert format_bits(groups) == "8x2,3x32,2"
    assert parse_bits("4") == (BitGroup(4, None),)
    assert list(rows_of_groups(groups, 40)) == [(0, 2, 8), (2, 34, 3), (34, 40, 2)]
    assert list(rows_of_groups(groups, 10)) == [(0, 2, 8), (2, 10, 3)]
    assert list(rows_of_groups(groups, 1)) == [(0, 1, 8)]


@pytest.mark.parametrize("text", ["", "0", "9", "8,", "8x0,2", "8x2", "8,4,3,2", "8;2", "2.5"])
def test_bits_that_cannot_be(text: str) -> None:
    with pytest.raises(MergeError, match="Write 8,3,2") as caught:
        parse_bits(text)
    assert f"'{text}'" in caught.value.message
    assert caught.value.param == "bits"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "either energy or rank"),
        ({"energy": 0.9, "rank": 3}, "either energy or rank"),
        ({"energy": 0}, "energy 0 is no share"),
        ({"energy": 1.5}, "energy 1.5 is no share"),
        ({"energy": "much"}, "energy cannot be"),
        ({"energy": True}, "energy cannot be 'True'"),
        ({"energy": float("nan")}, "energy nan is no share"),
        ({"rank": 0}, "rank 0 is less than 1"),
        ({"rank": 2.5}, "rank cannot be '2.5'"),
        ({"rank": 2, "max_rank": 0}, "max_rank 0 is less than 1"),
        ({"rank": 2, "bits": 3}, "bits cannot be '3'"),
        ({"rank": 2, "dtype": "int8"}, "one of float32, bfloat16, float16"),
        ({"rank": 2, "colour": "red"}, "no field 'colour'"),
        ([], "a JSON object"),
    ],
)
def test_specifications_that_cannot_be(value: Any, expected: str) -> None:
    with pytest.raises(MergeError, match=expected):
        ExtractSpec.from_json(value)
