"""Lets vLLM's V2 model runner run on a CPU: Triton's interpreter computes its kernels.

vLLM stands in for CUDA on a CPU (vllm/v1/worker/cpu/); what the published Triton lacks is a backend
for it. With TRITON_INTERPRET=1 no kernel is compiled, so that a driver which merely exists is
enough. Import it before vLLM. Streams, CUDA graphs and speed cannot be tested like this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
os.environ["TORCH_COMPILE_DISABLE"] = "1"  # torch.compile asks the driver for a compiler

import numpy as np
import torch
import triton.backends
import triton.runtime.interpreter as interpreter
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class _CpuDriver:
    """The part of a Triton driver that is used without compiling anything."""

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cpu", 0, 0)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu


class _Number(int):
    """A loop variable of a kernel: Triton's have a method `to`, the interpreter's integers none."""

    def to(self, dtype: object, **_: object) -> int:
        return int(self)


def _numbered(ranges: Callable[..., Any]) -> Callable[..., Iterator[_Number]]:
    return lambda *args, **kwargs: map(_Number, ranges(*args, **kwargs))


_patch_language = interpreter._patch_lang_core


def _patch_with_numbers(language: Any, scope: Any) -> None:
    _patch_language(language, scope)
    scope.set_attr(language, "range", _numbered(language.range))


_min_max = interpreter.ReduceOps.min_max


def _min_max_of_nan(
    self: Any, input: Any, val_reduce_op: Callable[..., Any], idx_reduce_op: Any = None
) -> Any:
    """NumPy refuses the place of an extremum among NaN alone, and warns of its value: a GPU gives
    some place, and NaN."""

    def place(values: np.ndarray, **options: Any) -> Any:
        only_nan = np.isnan(values).all(axis=self.axis, keepdims=True)
        return idx_reduce_op(np.where(only_nan, 0, values), **options)

    value = {np.nanmax: np.fmax.reduce, np.nanmin: np.fmin.reduce}[val_reduce_op]
    return _min_max(self, input, value, idx_reduce_op and place)


_run_grid = interpreter.GridExecutor.__call__


def _run_as_on_a_gpu(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute with infinities as a GPU does, which gives NaN without a word."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _run_grid(self, *args, **kwargs)


interpreter.GridExecutor.__call__ = _run_as_on_a_gpu
interpreter.ReduceOps.min_max = _min_max_of_nan
interpreter._patch_lang_core = _patch_with_numbers
triton.backends.backends["cpu"] = triton.backends.Backend(compiler=None, driver=_CpuDriver)
driver.set_active(_CpuDriver())
