"""The vLLM options that switch composition on. All of them are official (`vllm serve --help`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from composer.vllm.auxiliary.spec import Auxiliary, to_additional_config
from composer.vllm.releases import check_release, installed_release

SCHEDULER = "composer.vllm.schedule.gang_scheduler.gang_scheduler"
WORKER = "composer.vllm.execute.worker.ComposerWorker"
PROCESSORS = {
    "0": "composer.vllm.execute.v1.composition_processor:CompositionProcessor",
    "1": "composer.vllm.execute.v2.slot_processor:SlotProcessor",
}
"""By the value of `VLLM_USE_V2_MODEL_RUNNER`."""

PATIENCE_KEY = "composer_gang_patience_s"
"""Key in vLLM's `additional_config`, which must be JSON."""

DEFAULT_GANG_PATIENCE_S = 3.0
"""How long requests that fit may pass a waiting gang, counted from when it first did not fit."""

MODEL_RUNNERS = ("auto", "v1", "v2")

_V2_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def prepare_environment(model_runner: str = "auto") -> str:
    """Select vLLM's model runner, and return which. Call this before vLLM is imported.

    Args:
        model_runner: "v1", "v2", or "auto": as `VLLM_USE_V2_MODEL_RUNNER` says, otherwise V2 on
            CUDA, and V1 where PyTorch has no CUDA or there is no Triton.

    Raises:
        ValueError: this vLLM is not supported, V2 cannot run without Triton, or the environment
            selects the other runner.
    """
    check_release(installed_release())
    given = os.environ.get(_V2_RUNNER, "")
    if model_runner == "auto":
        wanted = given or ("1" if _has_cuda() else "0")
    else:
        wanted = {"v1": "0", "v2": "1"}[model_runner]
    if wanted not in PROCESSORS or (given and given != wanted):
        raise ValueError(
            f"{_V2_RUNNER} is set to {given}, and the model runner to {model_runner}. Set it to 0 "
            "for V1 or to 1 for V2, or unset it and give --model-runner."
        )
    if wanted == "1" and not _has_triton():
        raise ValueError(
            "the V2 model runner needs Triton, which is not installed; it comes with vLLM's CUDA "
            "build (`make setup EXTRA=cuda`). On a CPU choose --model-runner v1, and unset "
            f"{_V2_RUNNER}."
        )
    os.environ[_V2_RUNNER] = wanted
    return "v2" if wanted == "1" else "v1"


def _has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None and _has_triton()


def _has_triton() -> bool:
    return find_spec("triton") is not None


def engine_options(
    auxiliaries: Sequence[Auxiliary] = (), gang_patience_s: float = DEFAULT_GANG_PATIENCE_S
) -> dict[str, Any]:
    """Return arguments for `EngineArgs`, `AsyncEngineArgs` or `LLM`."""
    return {
        "scheduler_cls": SCHEDULER,
        "worker_cls": WORKER,
        "logits_processors": [PROCESSORS[os.environ[_V2_RUNNER]]],
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
