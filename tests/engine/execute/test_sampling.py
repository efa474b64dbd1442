"""Whatever vLLM can do to a plain answer it does to a composed one.

The composition `0.5 base + 0.5 base` is the base, bit for bit, but takes two rows through the gang
scheduler and the sampler. So every sampling feature must give the same tokens and logprobs as the
plain request with the same seed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from composer.engine_plan import Row
from tests.engine.harness import Job, WatchedEngine

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


def test_features_do_not_leak_between_requests_of_a_batch(roomy: WatchedEngine) -> None:
    jobs = [Job(PROMPT, TWIN, params=params) for name, params in FEATURES.items() if name != "n"]
    plain = [Job(PROMPT, params=params) for name, params in FEATURES.items() if name != "n"]
    mixed = [job for pair in zip(jobs, plain, strict=True) for job in pair]
    answers = roomy.answers(mixed)
    for composed, alone in zip(answers[::2], answers[1::2], strict=True):
        assert composed == alone


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


def test_seeds_survive_preemption(tight: WatchedEngine) -> None:
    jobs = [
        Job(PROMPT, TWIN, params={"temperature": 1.0, "seed": seed, "max_tokens": 60})
        for seed in range(8)
    ]
    alone = [tight.answers([job])[0] for job in jobs]
    before = tight.watch.preempted_gangs
    assert tight.answers(jobs) == alone
    assert tight.watch.preempted_gangs > before


def test_unseeded_answers_differ(roomy: WatchedEngine) -> None:
    torch.manual_seed(0)
    params = {"temperature": 1.5}
    answers = roomy.answers([Job(PROMPT, TWIN, params=params) for _ in range(4)])
    assert len({tuple(a) for a in answers}) > 1


def test_prompt_logprobs_are_refused(roomy: WatchedEngine) -> None:
    with pytest.raises(VLLMValidationError, match="prompt_logprobs is not available for comp"):
        roomy.add(Job(PROMPT, TWIN, params={"prompt_logprobs": 1}))
    roomy.assert_nothing_left()
