"""vLLM's async scheduling on CPU.

Its code path asks for CUDA streams and events, to overlap copies with computation. On CPU every
operation has happened when the call returns, so streams and events without effect keep its meaning:
steps are scheduled ahead of their predecessors' output, placeholders and all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


class _Nothing:
    """A stream or an event."""

    device = torch.device("cpu")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_stream(self, *args: Any) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


@contextmanager
def without_streams() -> Iterator[None]:
    with (
        patch.object(torch, "Event", _Nothing),
        patch.object(torch.cuda, "Event", _Nothing),
        patch.object(torch.cuda, "Stream", _Nothing),
        patch.object(torch.cuda, "stream", _Nothing),
        patch.object(torch.cuda, "current_stream", _Nothing),
    ):
        yield
