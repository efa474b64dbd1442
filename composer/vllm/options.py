"""The vLLM options that switch composition on. All of them are official (`vllm serve --help`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from composer.vllm.auxiliary import Auxiliary, to_additional_config

SCHEDULER = "composer.vllm.scheduler.gang_scheduler"
WORKER = "composer.vllm.worker.ComposerWorker"
PROCESSOR = "composer.vllm.processor:CompositionProcessor"


def prepare_environment() -> None:
    """Select the model runner that composition supports. Call it before vLLM is imported."""
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")


def engine_options(auxiliaries: Sequence[Auxiliary] = ()) -> dict[str, Any]:
    """Arguments for `EngineArgs`, `AsyncEngineArgs` or `LLM`."""
    return {
        "scheduler_cls": SCHEDULER,
        "worker_cls": WORKER,
        "logits_processors": [PROCESSOR],
        "additional_config": to_additional_config(auxiliaries),
    }
