"""One real server for all HTTP tests of a session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer, serving

CONTEXT = 512  # tokens
COMPACT = {"backend": "xgrammar", "disable_any_whitespace": True}
SERVED = ("polite", "rude", "chat")


@pytest.fixture(scope="session")
def server(
    zoo_base: Path, zoo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """The base with three adapters; its KV cache holds four full contexts."""
    folder = tmp_path_factory.mktemp("server")
    arguments = [
        *("--model", str(zoo_base), "--served-model-name", "zoo"),
        *("--adapters", ",".join(f"{name}={zoo_adapters[name]}" for name in SERVED)),
        *("--compositions-file", str(folder / "compositions.json")),
        *("--max-body-mib", "1", "--max-loras", "2"),
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", "32"),
        *("--structured-outputs-config", json.dumps(COMPACT)),
        *("--block-size", "32", "--num-gpu-blocks-override", str(4 * CONTEXT // 32 + 1)),
    ]
    # One process fewer to start, and no threads that wait for each other on a busy machine.
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    with serving(arguments, folder / "log.txt", environment) as live:
        yield live
