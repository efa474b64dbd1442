"""The rules of the house: who imports whom, and names that mean one thing.

Reads the source; imports within functions count as well.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("composer", "adapters", "server", "clients")
PACKAGES = (*PRODUCT, "zoo", "experts", "bench", "scripts")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "composer": ("composer",),
    "adapters": ("adapters", "composer.errors", "composer.fields", "composer.validation"),
    "server": ("server", "composer", "adapters"),
    "clients": (
        *("clients", "composer.errors", "composer.gate_training", "composer.recipes"),
        *("composer.release", "composer.mixtures.routers", "adapters.errors"),
        *("adapters.generation", "adapters.inspection", "adapters.output", "adapters.store"),
        *("adapters.weight_space", "server.__main__"),
    ),
    "zoo": ("zoo", "composer.gate_training", "composer.reference.masking"),
    "experts": ("experts",),
    "bench": ("bench", "composer", "adapters", "clients", "server", "zoo", "experts"),
    "scripts": ("scripts", "experts", "zoo", "composer.errors", "composer.vllm.seams"),
}
"""Package -> what it may import of ours; a name stands for everything below it."""

DOORS: dict[str, tuple[str, ...]] = {
    "vllm": (
        *("composer.vllm", "server.engine.vllm"),
        "bench.inprocess",
    ),
    "httpx": ("clients", "bench"),
    "fastapi": ("server",),
    "starlette": ("server",),
    "uvicorn": ("server",),
}
"""Dependency -> the only modules that may import it, outside the tests."""

MOST_FILES = 12
"""In one folder, beside its `__init__.py`: more ask for a chapter of their own."""

SAME_NAMES = {"__init__.py", "__main__.py", "errors.py"}
"""Files that mean the same in every folder."""


def _modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the project but the tests."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


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


GRAPH = {
    name: frozenset(imports_of(path.read_text(encoding="utf-8"), MODULES))
    for name, path in MODULES.items()
}


def is_below(name: str, *packages: str) -> bool:
    """Whether a module is one of these packages or in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


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


def siblings(edges: Iterable[tuple[PurePosixPath, PurePosixPath]]) -> set[tuple[str, str]]:
    """Pairs of sibling folders of which the first imports the second, from pairs of files."""
    pairs = set()
    for source, target in edges:
        a, b = source.parent.parts, target.parent.parts
        shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if shared is not None:
            pairs.add(("/".join(a[: shared + 1]), "/".join(b[: shared + 1])))
    return pairs


def _file(module: str) -> PurePosixPath:
    return PurePosixPath(MODULES[module].relative_to(ROOT).as_posix())


def test_imports_point_one_way() -> None:
    wrong = [
        (name, target)
        for name, targets in GRAPH.items()
        for target in targets
        if target.split(".")[0] in (*PACKAGES, "tests")
        and not is_below(target, *MAY_IMPORT[name.split(".")[0]])
    ]
    assert not wrong


def test_a_dependency_has_one_door() -> None:
    for dependency, doors in DOORS.items():
        users = [
            name for name, targets in GRAPH.items() if any(is_below(t, dependency) for t in targets)
        ]
        assert users, f"nothing imports {dependency}: is the door still needed?"
        assert not [name for name in users if not is_below(name, *doors)], dependency


def test_there_are_no_cycles() -> None:
    ours = {name: targets & MODULES.keys() - {name} for name, targets in GRAPH.items()}
    assert find_cycle(ours) == []


def test_no_two_sibling_folders_import_each_other() -> None:
    edges = (
        (_file(name), _file(target))
        for name, targets in GRAPH.items()
        for target in targets & MODULES.keys()
    )
    pairs = siblings(edges)
    assert [pair for pair in pairs if pair[::-1] in pairs] == []


def test_no_folder_has_too_many_files() -> None:
    files = [_file(name) for name in MODULES if is_below(name, *PRODUCT)]
    count = Counter(file.parent for file in files if file.name != "__init__.py")
    assert {str(folder): n for folder, n in count.items() if n > MOST_FILES} == {}


def test_file_and_class_names_mean_one_thing() -> None:
    files, classes = defaultdict(list), defaultdict(list)
    for name in MODULES:
        if not is_below(name, *PRODUCT):
            continue
        path = _file(name)
        if path.name not in SAME_NAMES:
            files[path.name].append(str(path))
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(path))
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}


def test_every_folder_of_code_has_its_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders <= MAY_IMPORT.keys()


def test_the_reader_sees_what_it_should() -> None:
    source = "import a.b\ndef f():\n    from composer import plan, missing\nfrom vllm.x import y\n"
    modules = {"composer": ROOT, "composer.plan": ROOT}
    assert list(imports_of(source, modules)) == ["a.b", "vllm.x", "composer.plan", "composer"]


def test_cycles_and_siblings_are_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b", "d"})}
    assert find_cycle(graph) == ["b", "c", "b"]
    assert find_cycle({"a": frozenset({"b", "c"}), "b": frozenset({"c"})}) == []
    files = [PurePosixPath(p) for p in ("a/x/f.py", "a/y/z/g.py", "a/h.py")]
    assert siblings([(files[0], files[1])]) == {("a/x", "a/y")}
    assert siblings([(files[0], files[2])]) == set()
