"""Run by `test_tensor_parallel`, in a process of its own: the answers of two workers, as JSON
in the file that is its argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1":  # before vLLM; workers import this module too
    import tests.support.triton_on_cpu  # noqa: F401

from vllm import LLM

import zoo
from bench.inprocess import BLOCK_TOKENS, Job
from bench.workload import random_gate
from composer.engine_plan import LoadedAdapter, MixtureParameters, Row, Switch
from composer.vllm.auxiliary.spec import Auxiliary
from composer.vllm.options import engine_options

PROMPT = tuple(range(40, 77))
CHAT = LoadedAdapter("chat", 1, str(zoo.ADAPTERS["chat"]))
POLITE = LoadedAdapter("polite", 2, str(zoo.ADAPTERS["polite"]))
SMALL_POLITE = LoadedAdapter("polite", 1, str(zoo.SMALL_ADAPTERS["polite"]))
SMALL_RUDE = LoadedAdapter("rude", 2, str(zoo.SMALL_ADAPTERS["rude"]))
JOBS = (
    Job(PROMPT),
    Job(PROMPT, (Row(1.0), Row(0.8, POLITE), Row(-0.3, CHAT))),
    Job(PROMPT, (Row(1.0), Row(0.8, SMALL_POLITE, None, "small"), Row(-0.8, None, None, "small"))),
    Job(PROMPT, (Row(1.0, CHAT), Row(0.8, SMALL_RUDE, PROMPT[:9], "small"), Row(0.5, POLITE))),
    Job(
        PROMPT,
        (Row(0.4), Row(0.3, POLITE), Row(0.3, SMALL_POLITE, None, "small")),
        mixture=MixtureParameters(fixed=0.5, posterior=0.5, forgetting=0.5),
    ),
    Job(PROMPT, switch=Switch((None, CHAT, POLITE), gate=str(random_gate()), classes=(0, 1, 2))),
)

LOST = Job(PROMPT, (Row(1.0), Row(0.5, LoadedAdapter("gone", 9, "/nowhere"))))
"""Needs an adapter that no worker can read: it fails alone, without a token."""


def main() -> None:
    llm = LLM(
        str(zoo.BASE),
        dtype="float32",
        tensor_parallel_size=2,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=16,
        max_model_len=256,
        block_size=BLOCK_TOKENS,
        kv_cache_memory_bytes=64 << 20,
        enforce_eager=True,
        **engine_options([Auxiliary("small", str(zoo.SMALL), 32 << 20, max_loras=2)]),
    )
    jobs = [*JOBS, LOST]
    outputs = llm.generate(
        [{"prompt_token_ids": list(job.prompt)} for job in jobs],
        [job.sampling_params() for job in jobs],
        lora_request=[job.lora() for job in jobs],
        use_tqdm=False,
    )
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    Path(sys.argv[1]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
