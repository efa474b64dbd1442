"""Environment variables that vLLM and torch read as they are imported."""

from __future__ import annotations

import os

from composer.vllm.options import prepare_environment

_ORIGINAL = dict(os.environ)


def prepare() -> None:
    """Set the variables; call before torch and vLLM are imported."""
    # One process: its CPU time is the whole cost, and the scheduler can be inspected.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # One unpinned thread: fastest for models as small as the zoo's. Pinned threads wait for each
    # other on a busy machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    prepare_environment()


def original() -> dict[str, str]:
    """Return the environment without the changes of `prepare`, for servers as users run them."""
    return dict(_ORIGINAL)
