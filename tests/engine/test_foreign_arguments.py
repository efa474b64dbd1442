"""Internal arguments that no front end of ours wrote fail their own request, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import FinishReason

from composer.bounds import (
    MAX_ALLOWED_TOKENS,
    MAX_BIASED_TOKENS,
    MAX_STOP_TOKENS,
    MODEL_STOP_TOKENS,
)
from composer.engine_plan import ENGINE_ARG, ROW_ARG, EnginePlan, LoadedAdapter, Row, Switch
from composer.vllm.execute.v1.composition_processor import CompositionProcessor
from tests.engine.harness import Job, WatchedEngine
from tests.support.foreign_plans import JSON_VALUES, mutated_plans

PROMPT = tuple(range(40, 77))
ROW = {"weight": 1.0, "adapter": None, "prompt_token_ids": None, "model": None}
REST: dict[str, Any] = {
    "filters": [],
    "mixture": None,
    "switch": None,
    "report_id": None,
    "explain": False,
}


def plan(*rows: Mapping[str, Any], **fields: Any) -> dict[str, str]:
    return {ENGINE_ARG: json.dumps({"rows": [ROW, *({**ROW, **r} for r in rows)], **REST} | fields)}


FOREIGN: dict[str, dict[str, Any]] = {
    "a row's tag": {ROW_ARG: "x"},
    "a row's tag as an object": {ROW_ARG: {"gang": "r1", "index": 0, "size": 1}},
    "a tag beside a plan": {**Job((1,), (Row(1.0),)).sampling_params().extra_args, ROW_ARG: [1]},
    "no JSON": {ENGINE_ARG: "base + polite"},
    "a number": {ENGINE_ARG: 3},
    "deep": {ENGINE_ARG: "[" * 100_000},
    "a list": {ENGINE_ARG: "[]"},
    "large numbers": plan({"weight": 10**400}),
    "a weight beyond float32": plan({"weight": 1e300}),
    "a model that is no name": plan({"model": ["small"]}),
    "an unknown model": plan({"model": "small"}),
    "an adapter without a number": plan({"adapter": {"name": "a", "id": "b", "path": "/c"}}),
    "an adapter with the number of none": plan({"adapter": {"name": "a", "id": 0, "path": "/c"}}),
    "a negative token": plan({"prompt_token_ids": [5, -1]}),
    "a token beyond the vocabulary": plan({"prompt_token_ids": [5, 1024]}),
    "a large token": plan({"prompt_token_ids": [2**70]}),
    "a token that is no number": plan({"prompt_token_ids": "text"}),
    "an unknown filter": plan(filters=[{"kind": "top_q", "member": 0, "value": 0.5}]),
    "a filter that is not a number": plan(
        filters=[{"kind": "top_p", "member": 0, "value": float("nan")}]
    ),
    "a mixture without weight": plan({"weight": 0.0}, rows=[ROW | {"weight": 0.0}] * 2, mixture={}),
    "a mixture that is a list": plan(mixture=[1, 2]),
    "a mixture of nothing": plan(mixture={"fixed": "much"}),
    "a switch that is a list": plan(switch=[1]),
    "a report id that is not a name": plan(report_id=[[1]]),
}
"""Each is JSON, as a client could send it."""


WELL_FORMED = {
    "an unknown model",
    "a negative token",
    "a token beyond the vocabulary",
    "a large token",
}
"""Only the engine knows its models and their tokens."""


@pytest.mark.parametrize("name", [name for name in FOREIGN if name not in WELL_FORMED])
def test_it_is_refused_before_it_enters(name: str) -> None:
    """`ValueError` becomes status 400."""
    with pytest.raises(ValueError, match=f"'{ENGINE_ARG}' is not an engine plan|'{ROW_ARG}' is"):
        CompositionProcessor.validate_params(SamplingParams(extra_args=FOREIGN[name]))


def test_a_tag_is_refused_on_the_way_in(roomy: WatchedEngine) -> None:
    job = Job(PROMPT, params={"max_tokens": 2})
    params = job.sampling_params()
    params.extra_args = {ROW_ARG: "x"}
    with pytest.raises(VLLMValidationError, match=ROW_ARG):
        roomy.engine.add_request("r", {"prompt_token_ids": list(PROMPT)}, params)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_gets_past_fails_its_own_request(name: str, roomy: WatchedEngine) -> None:
    good = Job(PROMPT, params={"max_tokens": 4})
    [alone] = roomy.answers([good])
    before, bad = roomy.add(good), roomy.add_unchecked(PROMPT, FOREIGN[name])
    after = roomy.add(good)
    done = roomy.drain()
    assert [list(done[one].outputs[0].token_ids) for one in (before, after)] == [alone, alone]
    assert done[bad].outputs[0].finish_reason == str(FinishReason.ERROR)
    assert not done[bad].outputs[0].token_ids
    roomy.assert_nothing_left()


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=JSON_VALUES | mutated_plans())
def test_whatever_arrives_the_engine_takes_or_refuses_it(
    value: object, roomy: WatchedEngine
) -> None:
    """No step is made: this is about what the scheduler does on arrival."""
    extra = {ENGINE_ARG: value if isinstance(value, str) else json.dumps(value)}
    name = roomy.add_unchecked(PROMPT, extra)
    leader, *_ = roomy.scheduler.requests.values()
    gang = roomy.scheduler.gangs.by_leader.get(leader.request_id)
    try:
        wellformed = EnginePlan.from_extra_args(extra) is not None
    except ValueError:
        wellformed = False
    refused = leader.request_id in roomy.scheduler.grammar_compile_error_reqs
    assert refused or (gang is not None and wellformed)
    roomy.abort(name)
    roomy.scheduler.grammar_compile_error_reqs.clear()
    assert not roomy.scheduler.requests


def test_a_switch_needs_candidates_that_fit(roomy: WatchedEngine) -> None:
    """More adapters than slots, and a gate without a class for one: refused on arrival."""
    many = tuple(LoadedAdapter(f"a{k}", 9000 + k, "/a") for k in range(5))
    job = Job(PROMPT, switch=Switch((None, *many), triggers=(7,)))
    name = roomy.add(job)
    assert roomy.drain()[name].outputs[0].finish_reason == str(FinishReason.ERROR)
    roomy.assert_nothing_left()


@pytest.mark.parametrize(
    ("field", "bound", "params"),
    [
        ("stop_token_ids", MAX_STOP_TOKENS, {}),
        ("stop_token_ids", MAX_STOP_TOKENS - MODEL_STOP_TOKENS, {"min_tokens": 1}),
        ("allowed_token_ids", MAX_ALLOWED_TOKENS, {}),
        ("logit_bias", MAX_BIASED_TOKENS, {}),
    ],
)
def test_lists_of_tokens_are_bounded(field: str, bound: int, params: dict[str, int]) -> None:
    """vLLM's V2 runner keeps them in tables of this size, and raises in the step beyond."""

    def of(length: int) -> SamplingParams:
        ids = list(range(length))
        value: Any = dict.fromkeys(ids, 1.0) if field == "logit_bias" else ids
        return SamplingParams(max_tokens=4, **{field: value}, **params)

    CompositionProcessor.validate_params(of(bound))
    with pytest.raises(ValueError, match=f"'{field}' has {bound + 1} entries.* {bound}\\b"):
        CompositionProcessor.validate_params(of(bound + 1))


@pytest.mark.parametrize("penalty", [1e-4, 0.0099, 100.5, 1e5])
def test_the_repetition_penalty_of_a_composed_request_is_bounded(penalty: float) -> None:
    """It multiplies negative logits: by 1e-4, a filtered token could be sampled."""
    plan = EnginePlan.led((Row(1.0), Row(0.5))).to_extra_args()
    CompositionProcessor.validate_params(SamplingParams(repetition_penalty=penalty))
    for good in (0.01, 100.0):
        params = SamplingParams(repetition_penalty=good, extra_args=plan)
        CompositionProcessor.validate_params(params)
    params = SamplingParams(repetition_penalty=penalty, extra_args=plan)
    with pytest.raises(ValueError, match=r"'repetition_penalty' is .* 0\.01 to 100"):
        CompositionProcessor.validate_params(params)


def test_the_bounds_are_those_of_the_tables() -> None:
    from vllm.v1.worker.gpu.sample import logit_bias as tables

    assert MAX_STOP_TOKENS == tables.MAX_NUM_STOP_TOKEN_IDS
    assert MAX_ALLOWED_TOKENS == tables.MAX_NUM_ALLOWED_TOKEN_IDS
    assert MAX_BIASED_TOKENS == tables.MAX_NUM_LOGIT_BIAS_TOKENS
