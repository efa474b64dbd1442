"""vLLM's async scheduling on CPU.

Its code path needs CUDA streams and events, to overlap copies with computation. On CPU every
operation is complete when its call returns, so that streams and events without effect preserve the
meaning: steps are scheduled ahead of their predecessors' output, with placeholders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


class _NoEffect:
    """A stream or an event without effect."""

    device = torch.device("cpu")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_stream(self, *args: Any) -> None:
        pass

    def __enter__(self) -> _NoEffect:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


@contextmanager
def without_streams() -> Iterator[None]:
    """Replace CUDA streams and events until the end of the block.

    For the V2 model runner vLLM itself replaces them, for good, as it imports that runner.
    """
    if os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1":
        yield
        return
    with (
        patch.object(torch, "Event", _NoEffect),
        patch.object(torch.cuda, "Event", _NoEffect),
        patch.object(torch.cuda, "Stream", _NoEffect),
        patch.object(torch.cuda, "stream", _NoEffect),
        patch.object(torch.cuda, "current_stream", _NoEffect),
    ):
        yield
