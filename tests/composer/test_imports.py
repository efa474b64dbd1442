"""The pure part stays pure: a client or a test can import it without an engine."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.test_layout import GRAPH, PRODUCT, ROOT, is_below

FORBIDDEN = ("torch", "vllm", "transformers", "peft", "fastapi", "httpx", "starlette")
NOT_PURE = tuple(f"composer.{name}" for name in ("vllm", "reference", "tensors", "gate_training"))


def test_importing_composer_imports_no_engine_and_no_http() -> None:
    program = (
        "import sys, composer.engine_plan, composer.mixtures.route, composer.request\n"
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


def test_the_oracle_shares_only_its_input_with_what_it_checks() -> None:
    """Not a constant, not a formula: what it is asked, and nothing else of ours."""
    taken = {
        (node.module, alias.name)
        for path in (ROOT / "composer" / "reference").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and is_below(node.module or "", *PRODUCT)
        for alias in node.names
        if not is_below(node.module or "", "composer.reference")
    }
    assert taken == {
        ("composer.engine_plan", "MixtureParameters"),
        ("composer.filters", "Filter"),
        ("composer.filters", "FilterKind"),
    }
