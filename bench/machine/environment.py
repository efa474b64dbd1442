"""What vLLM and torch read from the environment as they are imported."""

from __future__ import annotations

import os

from composer.vllm.options import prepare_environment

_ORIGINAL = dict(os.environ)


def prepare() -> None:
    """Call it before torch and vLLM are imported."""
    # One process: its CPU time is all there is, and the scheduler can be looked at.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # One thread without pinning: fastest for models as small as the zoo's, and pinned threads wait
    # for each other on a machine that has other work.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    prepare_environment()


def original() -> dict[str, str]:
    """The environment without what `prepare` set: for processes that are measured as users run
    them."""
    return dict(_ORIGINAL)
