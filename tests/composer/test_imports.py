"""The pure part stays pure: a client or a test can import it without an engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import composer

ROOT = Path(composer.__file__).parent
FORBIDDEN = ("torch", "vllm", "transformers", "peft", "fastapi", "httpx", "starlette")
TENSORS = ("kernel.py", "groups.py", "mixing.py")  # the tensor operations
PURE = sorted(
    path
    for folder in (ROOT, ROOT / "recipes", ROOT / "routers")
    for path in folder.glob("*.py")
    if path.name not in TENSORS
)


def test_importing_composer_imports_no_engine_and_no_http() -> None:
    program = (
        "import sys, composer, composer.compiled, composer.routing\n"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, *FORBIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_imports_them_later(path: Path) -> None:
    """Not even within a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported.isdisjoint({*FORBIDDEN, "server", "adapters", "clients"})
