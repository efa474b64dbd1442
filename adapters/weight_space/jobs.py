"""The one entry to work in weight space, for the command line and the server.

A job is a specification whose adapters and models are folders. The command line computes it in its
own process. The server starts `python -m adapters.weight_space`: minutes of computing hold neither
the interpreter lock nor the memory of the process that serves requests. Imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from adapters.errors import MergeError
from adapters.weight_space.convert.convert_report import ConvertReport
from adapters.weight_space.convert.convert_spec import ConvertJob
from adapters.weight_space.extract import ExtractReport, ExtractSpec, extract
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeReport, MergeSpec, merge
from adapters.weight_space.patch import PatchReport, patch
from composer.fields import Fields, Number
from composer.validation import validate

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with steps done, steps in total, and the module or tensor of the last step."""


class ExtractJob(ExtractSpec):
    """An extraction from the model in `tuned`, a fine-tune of the model in `base`."""

    base: Path
    tuned: Path


class PatchJob(Fields):
    """Carry an adapter over to the base model in the folder `to`."""

    adapter: Path
    to: Path
    earlier: Path | None = None
    """The base that the adapter was trained on, to report how far `to` is from it."""

    scale: Number = 1.0
    """What the adapter's change is multiplied with."""

    base_model: str | None = None
    """Name of the base model in the adapter's configuration; by default its folder."""


Job: TypeAlias = MergeSpec | ExtractJob | PatchJob | ConvertJob
Report: TypeAlias = MergeReport | ExtractReport | PatchReport | ConvertReport


def read_job(kind: str, value: Mapping[str, Any]) -> Job:
    """Read a `merge`, an `extract`, a `patch` or a `convert`. Raises `MergeError`."""
    match kind:
        case "merge":
            return MergeSpec.from_json(value)
        case "extract":
            return validate(ExtractJob, value, kind, MergeError)
        case "patch":
            return validate(PatchJob, value, kind, MergeError)
        case "convert":
            return validate(ConvertJob, value, kind, MergeError)
    raise ValueError(f"{kind!r} is not merge, extract, patch or convert")


def compute(job: Job, destination: Path, progress: Progress | None = None) -> Report:
    """Write the adapter's two files into the folder `destination`.

    Raises:
        AdapterError: an adapter cannot be served, or does not fit the base model.
        MergeError: the models or adapters do not fit each other.
    """
    bound_threads()
    match job:
        case PatchJob():
            return patch(
                job.adapter,
                job.to,
                destination,
                earlier=job.earlier,
                scale=job.scale,
                base_model=job.base_model,
                progress=progress,
            )
        case ExtractJob():
            return extract(job, job.base, job.tuned, destination, progress)
        case ConvertJob():
            from adapters.weight_space.convert.conversion import convert  # PEFT takes seconds

            return convert(job, destination, progress)
    readers = [AdapterReader(Path(member.adapter)) for member in job.adapters]
    return merge(job, readers, destination, progress)


def bound_threads() -> int:
    """Bound the threads of torch and its BLAS in this process, and return their number.

    At most half of the cores that this process may use: beside an engine that keeps all cores busy,
    threads that spin while they wait for each other made a merge of one second take 82. A lower
    OMP_NUM_THREADS holds.
    """
    threads = min(torch.get_num_threads(), max(1, usable_cores() // 2))
    torch.set_num_threads(threads)
    return threads


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process may use: its affinity and its cgroup's quota."""
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
    except OSError:  # cgroup v1, or none
        return cores
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))
