"""Imports point one way, and every large dependency has one door.

Reads the source; lazy imports within functions count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("composer", "adapters", "server", "clients", "zoo", "bench", "scripts")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "composer": ("composer",),
    "adapters": ("adapters", "composer.errors"),
    "server": ("server", "composer", "adapters"),
    "clients": (
        *("clients", "composer.wire", "composer.errors", "composer.training"),
        *("adapters.cli", "adapters.inspection"),
    ),
    "zoo": ("zoo", "composer.training"),
    "bench": ("bench", "composer", "adapters", "clients", "server", "zoo"),
    "scripts": ("scripts",),
}
"""Package -> what it may import of ours; a name stands for everything below it."""

DOORS: dict[str, tuple[str, ...]] = {
    "vllm": ("composer.vllm", "server.openai", "server.vllm_requests"),
    "httpx": ("clients", "bench"),
    "fastapi": ("server",),
    "starlette": ("server",),
    "uvicorn": ("server",),
}
"""Dependency -> the only modules that may import it, outside the tests."""


def _modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the project but the tests."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = _modules()


def imports_of(source: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """What a module's source imports; `from package import module` names the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            for alias in node.names:
                name = f"{parent}.{alias.name}"
                yield name if name in modules else parent


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def find_cycle(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """One cycle of the graph, its first node repeated at the end; empty if there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for target in sorted(graph.get(node, frozenset())):
            cycle = visit(target, [*path, node])
            if cycle:
                return cycle
        finished.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


GRAPH = {
    name: frozenset(imports_of(path.read_text(encoding="utf-8"), MODULES))
    for name, path in MODULES.items()
}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    allowed = MAY_IMPORT[name.split(".")[0]]
    wrong = [
        target
        for target in GRAPH[name]
        if target.split(".")[0] in (*PACKAGES, "tests")
        and not any(is_below(target, package) for package in allowed)
    ]
    assert not wrong, f"{name} may import of our packages only {allowed}"


@pytest.mark.parametrize("dependency", DOORS)
def test_a_dependency_has_one_door(dependency: str) -> None:
    users = [
        name for name, targets in GRAPH.items() if any(is_below(t, dependency) for t in targets)
    ]
    wrong = [name for name in users if not any(is_below(name, door) for door in DOORS[dependency])]
    assert not wrong, f"{dependency} may be imported in {DOORS[dependency]} only"
    assert users, f"nothing imports {dependency}: is the door still needed?"


def test_there_are_no_cycles() -> None:
    assert (
        find_cycle({name: targets & MODULES.keys() - {name} for name, targets in GRAPH.items()})
        == []
    )


def test_every_folder_of_code_has_its_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders <= MAY_IMPORT.keys()


def test_the_reader_sees_what_it_should() -> None:
    source = "import a.b\ndef f():\n    from composer import plan, missing\nfrom vllm.x import y\n"
    modules = {"composer": ROOT, "composer.plan": ROOT}
    assert list(imports_of(source, modules)) == ["a.b", "vllm.x", "composer.plan", "composer"]


def test_cycles_are_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b", "d"})}
    assert find_cycle(graph) == ["b", "c", "b"]
    assert find_cycle({"a": frozenset({"b", "c"}), "b": frozenset({"c"})}) == []
