"""What we rely on in vLLM is still there, and what we work around is still needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs

from composer.engine_plan import Row
from composer.reference.oracle import Oracle
from composer.vllm.compat import RELIES_ON, SUPPORTED, check_engine
from tests.engine.harness import Job, WatchedEngine, count_mismatches

_spec = find_spec("vllm")
assert _spec is not None
assert _spec.origin is not None
VLLM = Path(_spec.origin).parent
PROMPT = tuple(range(40, 77))


def test_vllm_still_has_what_we_rely_on() -> None:
    sources = {file: (VLLM / file).read_text(encoding="utf-8") for file in RELIES_ON}
    gone = [(file, t) for file, texts in RELIES_ON.items() for t in texts if t not in sources[file]]
    assert not gone, f"composer/vllm relies on these and was written for vLLM {SUPPORTED}"


def test_cpu_lora_kernels_still_need_our_fix() -> None:
    """When this fails, delete composer/vllm/workarounds/cpu_lora.py."""
    source = (VLLM / "lora/ops/torch_ops/lora_ops.py").read_text()
    assert "selected_loras = lora_b_weights[lora_indices_tensor]" in source


def test_cpu_generators_still_need_our_rewinding() -> None:
    """When this fails, delete composer/vllm/workarounds/cpu_generator.py."""
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().set_offset(0)


def test_logprobs_of_a_plain_prompt_beside_composed_requests(
    roomy: WatchedEngine, oracle: Oracle
) -> None:
    """vLLM's CPU kernels fail here once the batch holds several requests: see cpu_lora."""
    polite = roomy.adapters["polite"]
    plain = Job(PROMPT, params={"prompt_logprobs": 1, "max_tokens": 4})
    jobs = [Job(PROMPT, (Row(1.0), Row(0.5, polite))), plain, Job(PROMPT, adapter=polite), plain]
    outputs = roomy.run(jobs)
    expected = oracle.logits(None, PROMPT).log_softmax(-1)
    for output in (outputs[1], outputs[3]):
        assert output.prompt_logprobs is not None
        for position, shown in enumerate(output.prompt_logprobs[1:]):
            assert shown is not None
            logprob = shown[PROMPT[position + 1]].logprob
            assert logprob == pytest.approx(
                float(expected[position, PROMPT[position + 1]]), abs=1e-3
            )


def test_base_rows_beside_a_full_set_of_adapters(roomy: WatchedEngine, oracle: Oracle) -> None:
    """Stock vLLM 0.32 gives base rows the adapter in the last slot here: see cpu_lora."""
    names = ["polite", "rude", "chat", "velan"]  # as many as there are slots
    jobs = [Job(PROMPT, adapter=roomy.adapters[name]) for name in names] + [Job(PROMPT)] * 2
    wrong, _ = count_mismatches(oracle, jobs, roomy.answers(jobs))
    assert wrong == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}},
            "KV cache connectors",
        ),
    ],
)
def test_settings_that_break_gangs_are_refused_at_start(
    options: dict[str, Any], message: str, zoo_base: Path
) -> None:
    config = EngineArgs(model=str(zoo_base), **options).create_engine_config()
    with pytest.raises(ValueError, match=message):
        check_engine(config)


def test_a_row_of_the_engine_is_a_request_of_vllm(roomy: WatchedEngine) -> None:
    """The plan reaches the scheduler as it was sent, and leaves nothing in shared parameters."""
    adapter = roomy.adapters["polite"]
    name = roomy.add(Job(PROMPT, (Row(1.0), Row(0.5, adapter, (7, 8)))))
    [group] = roomy.scheduler.gangs.by_leader.values()
    assert group.leader.request_id.startswith(name)
    assert [row.prompt_token_ids for row in group.rows] == [list(PROMPT), [7, 8]]
    assert group.companions[0].lora_request.lora_name == adapter.name
    roomy.abort(name)
    roomy.assert_nothing_left()
