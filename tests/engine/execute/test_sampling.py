"""Whatever vLLM can do to a plain answer it does to a composed one.

The composition `0.5 base + 0.5 base` is the base, bit for bit, but takes two rows through the gang
scheduler and the sampler. So every sampling feature must give the same tokens and logprobs as the
plain request with the same seed.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.sampler import Sampler as SlotsSampler

from composer.engine_plan import Row
from tests.engine.harness import IS_V2, Job, WatchedEngine

PROMPT = tuple(range(40, 77))
TWIN = (Row(0.5), Row(0.5))

FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seed": {"temperature": 1.0, "seed": 5},
    "top-k": {"temperature": 1.5, "top_k": 3, "seed": 5},
    "top-p": {"temperature": 1.5, "top_p": 0.5, "seed": 5},
    "min-p": {"temperature": 1.5, "min_p": 0.2, "seed": 5},
    "repetition": {"repetition_penalty": 2.0},
    "presence": {"presence_penalty": 1.9},
    "frequency": {"frequency_penalty": 1.9},
    "logit bias": {"logit_bias": {77: 30.0}},
    "allowed tokens": {"allowed_token_ids": [50, 60, 70]},
    "bad words": {"bad_words": ["a", "e", "i", "the"]},
    "min tokens": {"min_tokens": 10, "ignore_eos": False, "stop_token_ids": list(range(0, 300, 3))},
    "stop token": {"stop_token_ids": list(range(10, 400, 4))},
    "logprobs": {"logprobs": 4},
    "sampled logprobs": {"logprobs": 4, "temperature": 1.2, "seed": 8},
    "n": {"n": 3, "temperature": 1.3, "seed": 2},
    "json": {
        "structured_outputs": StructuredOutputsParams(
            json={
                "type": "object",
                "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
                "required": ["n", "ok"],
                "additionalProperties": False,
            }
        ),
        "ignore_eos": False,
        "max_tokens": 40,
    },
    "choice": {
        "structured_outputs": StructuredOutputsParams(choice=["yes", "no"]),
        "ignore_eos": False,
    },
}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("which", ["roomy", "asynchronous"])
def test_composed_answers_are_sampled_like_plain_ones(
    which: str, feature: str, request: pytest.FixtureRequest
) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    params = FEATURES[feature]
    [plain] = engine.run([Job(PROMPT, params=params)])
    [twin] = engine.run([Job(PROMPT, TWIN, params=params)])
    assert len(plain.outputs) == len(twin.outputs) == params.get("n", 1)
    for one, other in zip(plain.outputs, twin.outputs, strict=True):
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        assert one.finish_reason == other.finish_reason
        if one.logprobs:
            assert other.logprobs is not None
            for mine, its in zip(one.logprobs, other.logprobs, strict=True):
                for token, logprob in mine.items():
                    assert its[token].logprob == pytest.approx(logprob.logprob, abs=1e-3)
    if feature == "n":
        assert len({tuple(o.token_ids) for o in twin.outputs}) > 1
    engine.assert_nothing_left()


THREE = (Row(0.25), Row(0.5), Row(0.25))


@pytest.mark.parametrize("which", ["roomy", "tight", "asynchronous"])
def test_features_do_not_leak_between_requests_of_a_batch(
    which: str, request: pytest.FixtureRequest
) -> None:
    """The batch is condensed and reordered as requests end; the answers to plain requests, one at a
    time, are the reference."""
    engine: WatchedEngine = request.getfixturevalue(which)
    features = [
        {"max_tokens": length, **params}
        for (name, params), length in zip(FEATURES.items(), itertools.cycle([30, 9, 17]))
        if name != "n"
    ]
    alone = [engine.answers([Job(PROMPT, params=params)])[0] for params in features]
    for seed in range(2):
        jobs = [
            (number, Job(PROMPT, (TWIN, THREE, None)[(number + seed) % 3], params=params))
            for number, params in enumerate(features)
        ]
        random.Random(seed).shuffle(jobs)
        answers = engine.answers([job for _, job in jobs])
        for (number, job), answer in zip(jobs, answers, strict=True):
            assert answer == alone[number], (features[number], job.rows)
    engine.assert_nothing_left()


@pytest.mark.parametrize("which", ["roomy", "tight", "asynchronous"])
def test_companions_are_not_sampled(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's sampler gets one row for each leader and plain request of a step, and none for a
    companion, not even while its prompt is read."""
    engine: WatchedEngine = request.getfixturevalue(which)
    sampled: list[int] = []
    sampler, method = (SlotsSampler, "__call__") if IS_V2 else (Sampler, "forward")
    sample = getattr(sampler, method)

    def counted(self: object, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sampled.append(len(logits))
        return sample(self, logits, *args, **kwargs)

    monkeypatch.setattr(sampler, method, counted)
    first = len(engine.watch.scheduled)
    params = {"temperature": 1.0, "top_p": 0.9, "seed": 3}
    jobs = [
        Job(PROMPT[: 1 + 5 * number], rows, params=params)
        for number, rows in enumerate((TWIN, None, THREE, TWIN, None))
    ]
    engine.answers(jobs)
    engine.assert_nothing_left()
    steps = [step for step in engine.watch.scheduled[first:] if step]
    leading = [sum("#" not in name for name in step) for step in steps]
    assert sampled == [count for count in leading if count]
    assert sum(sampled) < sum(map(len, steps))


def test_masked_tokens_stay_masked_under_negative_weights(roomy: WatchedEngine) -> None:
    """`-1 * -inf` would be the most likely token of all."""
    rows = (Row(-1.0), Row(2.0, roomy.adapters["polite"]))
    params = {"allowed_token_ids": [50, 60, 70], "logprobs": 3}
    [output] = roomy.run([Job(PROMPT, rows, params=params)])
    assert set(output.outputs[0].token_ids) <= {50, 60, 70}
    schema = FEATURES["choice"]["structured_outputs"]
    params = {"structured_outputs": schema, "ignore_eos": False, "logprobs": 3}
    [output] = roomy.run([Job(PROMPT, rows, params=params)])
    assert output.outputs[0].text in ("yes", "no")
    assert output.outputs[0].logprobs is not None
    for position in output.outputs[0].logprobs:
        assert all(value.logprob == value.logprob for value in position.values())  # no NaN


def test_a_seeded_prompt_in_chunks(tight: WatchedEngine, roomy: WatchedEngine) -> None:
    """Plain vLLM 0.32 dies here on CPU: see composer.vllm.workarounds.cpu_generator."""
    prompt = tuple(20 + i % 300 for i in range(150))
    for rows in (None, TWIN):
        job = Job(prompt, rows, params={"temperature": 1.0, "seed": 4})
        assert tight.answers([job]) == roomy.answers([job])


@pytest.mark.parametrize("which", ["tight", "asynchronous"])
def test_sampling_survives_preemption(which: str, request: pytest.FixtureRequest) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    features: list[dict[str, Any]] = [
        {},
        {"top_p": 0.8},
        {"min_p": 0.02, "top_k": 200},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
        {"bad_words": ["a", "e", "i", "the"]},
        {"logit_bias": {77: 4.0}},
        {"min_tokens": 50, "stop_token_ids": list(range(0, 300, 3))},
        {"allowed_token_ids": list(range(10, 300))},
    ]
    sampled = {"temperature": 1.0, "max_tokens": 60}
    jobs = [
        Job(PROMPT, TWIN, params={**sampled, "seed": seed, **params})
        for seed, params in enumerate(features)
    ]
    alone = [engine.answers([Job(PROMPT, params=job.params)])[0] for job in jobs]
    before = engine.watch.preempted_gangs
    assert engine.answers(jobs) == alone
    assert engine.watch.preempted_gangs > before


def test_unseeded_answers_differ(roomy: WatchedEngine) -> None:
    torch.manual_seed(0)
    params = {"temperature": 1.5}
    answers = roomy.answers([Job(PROMPT, TWIN, params=params) for _ in range(4)])
    assert len({tuple(a) for a in answers}) > 1
