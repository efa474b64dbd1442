"""vLLM's V1 model runner is behind one folder, which can be deleted with it."""

from __future__ import annotations

import ast
from pathlib import Path

import composer.vllm

PACKAGE = Path(composer.vllm.__file__).parent
V1 = PACKAGE / "execute" / "v1"

V1_ATTRIBUTES = {
    "discard_request_mask",
    "execute_model_state",
    "generators",
    "input_batch",
    "logitsprocs",
    "make_lora_inputs",
    "num_computed_tokens_cpu",
    "prev_sampled_token_ids",
    "query_start_loc",
    "req_id_to_index",
    "request_lora_mapping",
    "sample_hidden_states",
    "sampler",
    "sampling_metadata",
    "token_ids_cpu",
}
"""Of the V1 runner, its batch and its step; the V2 runner has none of them or other ones."""


def attributes(source: str) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def test_only_the_view_touches_the_v1_runner() -> None:
    touching = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in attributes(path.read_text()) & V1_ATTRIBUTES
        if path.parent != V1
    }
    assert touching == set()
    used = set().union(*(attributes(path.read_text()) for path in V1.glob("*.py")))
    assert used >= V1_ATTRIBUTES - {"token_ids_cpu"}


def test_only_the_worker_knows_which_runner_it_is() -> None:
    """`options` names the view's processor for vLLM's command line."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parent != V1
        and ("execute.v1" in path.read_text() or "vllm.v1.sample" in path.read_text())
    }
    assert users == {"execute/worker.py", "options.py", "workarounds/cpu_top_p.py"}
