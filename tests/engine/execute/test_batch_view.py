"""Each of vLLM's model runners is behind one folder, which can be deleted with it."""

from __future__ import annotations

import ast
from pathlib import Path

import composer.vllm

PACKAGE = Path(composer.vllm.__file__).parent
RUNNERS = (PACKAGE / "execute" / "v1", PACKAGE / "execute" / "v2")

OF_RUNNERS = {
    "cu_num_logits",
    "discard_request_mask",
    "execute_model_state",
    "generators",
    "idx_mapping_np",
    "input_batch",
    "logits_indices",
    "logitsprocs",
    "make_lora_inputs",
    "num_computed_tokens_cpu",
    "prev_sampled_token_ids",
    "prefill_len_np",
    "prompt_logprobs_worker",
    "query_start_loc",
    "req_id_to_index",
    "req_states",
    "request_lora_mapping",
    "sample_hidden_states",
    "sampler",
    "sampling_metadata",
    "token_ids_cpu",
}
"""Of a runner, its batch and its step."""


def attributes(source: str) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def test_only_the_views_touch_the_runners() -> None:
    touching = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in attributes(path.read_text()) & OF_RUNNERS
        if path.parent not in RUNNERS
    }
    assert touching == set()
    files = [path for folder in RUNNERS for path in folder.glob("*.py")]
    used = set().union(*(attributes(path.read_text()) for path in files))
    assert used >= OF_RUNNERS - {"token_ids_cpu"}


def test_only_the_worker_knows_which_runner_it_is() -> None:
    """`options` names the view's processor for vLLM's command line."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parent not in RUNNERS
        for text in [path.read_text()]
        if any(
            name in text for name in ("execute.v1", "execute.v2", "vllm.v1.sample", "worker.gpu.")
        )
    }
    assert users == {"execute/worker.py", "options.py", "workarounds/cpu_top_p.py"}
