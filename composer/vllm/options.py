"""The vLLM options that switch composition on. All of them are official (`vllm serve --help`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from composer.vllm.auxiliary.spec import Auxiliary, to_additional_config

SCHEDULER = "composer.vllm.schedule.gang_scheduler.gang_scheduler"
WORKER = "composer.vllm.execute.worker.ComposerWorker"
PROCESSOR = "composer.vllm.execute.v1.composition_processor:CompositionProcessor"

PATIENCE_KEY = "composer_gang_patience_s"
"""Key in vLLM's `additional_config`, which must be JSON."""

DEFAULT_GANG_PATIENCE_S = 3.0
"""How long requests that fit may pass a waiting gang, counted from when it first did not fit."""

_V2_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def prepare_environment() -> None:
    """Select the model runner that composition supports. Call this before vLLM is imported.

    Raises:
        ValueError: the environment selects the other one.
    """
    if os.environ.setdefault(_V2_RUNNER, "0") not in ("", "0"):
        raise ValueError(
            f"{_V2_RUNNER} is set to {os.environ[_V2_RUNNER]}: composition needs vLLM's V1 model "
            "runner. Unset the variable."
        )


def engine_options(
    auxiliaries: Sequence[Auxiliary] = (), gang_patience_s: float = DEFAULT_GANG_PATIENCE_S
) -> dict[str, Any]:
    """Return arguments for `EngineArgs`, `AsyncEngineArgs` or `LLM`."""
    return {
        "scheduler_cls": SCHEDULER,
        "worker_cls": WORKER,
        "logits_processors": [PROCESSOR],
        "additional_config": {
            **to_additional_config(auxiliaries),
            PATIENCE_KEY: gang_patience_s,
        },
    }


def gang_patience_s(config: Mapping[str, Any]) -> float:
    """Return the patience in an engine's `additional_config`.

    Raises:
        ValueError: the patience is negative or not a number.
    """
    patience = float(config.get(PATIENCE_KEY, DEFAULT_GANG_PATIENCE_S))
    if not patience >= 0:
        raise ValueError(f"the patience of gangs is {patience} s; give 0 or more")
    return patience
