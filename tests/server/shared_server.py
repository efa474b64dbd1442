"""One real server for all tests of a session that ask one, in whatever folder they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adapters import inspect
from composer.mixtures.gate_file import Gate, fingerprint, save_gate
from tests.support.live_server import LiveServer, serving
from zoo.prompts import EXAMPLES

CONTEXT = 512  # tokens
COMPACT = {"backend": "xgrammar", "disable_any_whitespace": True}
SERVED = ("polite", "rude", "chat", "arithmetic")


def write_gate(file: Path, base: Path, adapters: dict[str, Path]) -> None:
    """A gate that wants `arithmetic` for every token, by a logit of 1.

    It knows an adapter that is not served, `gone`, and another content of `rude`.
    """
    classes = ("base", "chat", "arithmetic", "rude", "gone")
    bias = np.array([0, 0, 1, 0, 0], np.float32)
    weight = np.zeros((len(classes), 256), np.float32)
    digests: dict[str, str | None] = dict.fromkeys(classes)
    digests |= {
        "chat": inspect(adapters["chat"], "chat", None).digest,
        "rude": inspect(adapters["polite"], "rude", None).digest,
    }
    save_gate(Gate(classes, weight, bias, digests, fingerprint(base)), file)


@pytest.fixture(scope="session")
def server(
    zoo_base: Path, zoo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """The base with four adapters, two of which have examples, and a gate; its KV cache holds four
    full contexts."""
    folder = tmp_path_factory.mktemp("server")
    write_gate(folder / "gate.safetensors", zoo_base, zoo_adapters)
    arguments = [
        *("--model", str(zoo_base), "--served-model-name", "zoo"),
        *("--adapters", ",".join(f"{name}={zoo_adapters[name]}" for name in SERVED)),
        *(f"--examples={name}={EXAMPLES[name]}" for name in ("chat", "arithmetic")),
        *("--router", f"tasks={folder / 'gate.safetensors'}"),
        *("--max-body-mib", "1", "--max-loras", "2"),
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", "32"),
        *("--structured-outputs-config", json.dumps(COMPACT)),
        *("--block-size", "32", "--num-gpu-blocks-override", str(4 * CONTEXT // 32 + 1)),
    ]
    # One process fewer to start, and no threads that wait for each other on a busy machine.
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    with serving(arguments, folder / "log.txt", environment) as live:
        yield live
