"""The pure part stays pure: a client or a test can import it without an engine."""

from __future__ import annotations

import subprocess
import sys

from tests.test_layout import GRAPH, ROOT, is_below

FORBIDDEN = ("torch", "vllm", "transformers", "peft", "fastapi", "httpx", "starlette")
NOT_PURE = tuple(f"composer.{name}" for name in ("vllm", "reference", "tensors", "gate_training"))


def test_importing_composer_imports_no_engine_and_no_http() -> None:
    program = (
        "import sys, composer, composer.engine_plan, composer.mixtures.route\n"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, *FORBIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_no_file_of_the_pure_part_imports_them_later() -> None:
    """Not even within a function."""
    pure = {
        name: targets
        for name, targets in GRAPH.items()
        if is_below(name, "composer") and not any(is_below(name, other) for other in NOT_PURE)
    }
    wrong = {
        (name, target)
        for name, targets in pure.items()
        for target in targets
        if target.split(".")[0] in FORBIDDEN
    }
    assert len(pure) > 30
    assert not wrong
