"""Grammars that nothing fits are refused before the engine sees them, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from composer.vllm.grammars import check_grammar

ENDLESS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#"}},
    "required": ["a"],
}


def tag(schema: object) -> dict[str, Any]:
    return {
        "structures": [{"begin": "<a>", "schema": schema, "end": "</a>"}],
        "triggers": ["<a"],
    }


def params(backend: str = "xgrammar", **wanted: Any) -> SamplingParams:
    outputs = StructuredOutputsParams(**wanted)
    outputs._backend = backend
    return SamplingParams(structured_outputs=outputs)


@pytest.mark.parametrize(
    "wanted",
    [
        {"json": {"$ref": "#"}},
        {"json": '{"allOf": [{"$ref": "#"}]}'},
        {"json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
        {"regex": r"[^\d\D]"},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= a\na ::= b\nb ::= a"},
    ],
)
def test_what_nothing_fits(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no answer fits the") as caught:
        check_grammar(params(**wanted))
    assert next(iter(wanted)) in str(caught.value)
    check_grammar(params("guidance", **wanted))  # that back end has its own word on it


@pytest.mark.parametrize(
    "wanted",
    [
        {"json": {}},
        {"json": ENDLESS},
        {"json": {"type": "string", "enum": [""]}},
        {"json_object": True},
        {"regex": ""},
        {"regex": "a{0}"},
        {"regex": "é|🙂"},
        {"choice": ["", "no"]},
        {"grammar": 'root ::= ""'},
        {"grammar": 'root ::= "x" root'},
        {"grammar": "start: /a+/"},
        {"structural_tag": json.dumps(tag({}))},
        {"structural_tag": '{"format": {"type": "token", "token": 7}}'},
    ],
)
def test_what_something_fits(wanted: dict[str, Any]) -> None:
    check_grammar(params(**wanted))


WRONG = {"type": "string", "minLength": -1}


@pytest.mark.parametrize(
    "wanted", [{"json": WRONG}, {"structural_tag": json.dumps(tag(WRONG))}], ids=["json", "tag"]
)
def test_what_does_not_compile(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of this request: Check failed.*repetition range"):
        check_grammar(params(**wanted))


def test_a_request_without_a_grammar() -> None:
    check_grammar(SamplingParams())
