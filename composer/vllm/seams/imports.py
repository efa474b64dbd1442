"""Which of the names that this project imports from vLLM another release lacks."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("composer", "server", "bench")


def missing_imports(package: Path) -> Iterator[str]:
    """Yield the names that the folder of vLLM's package lacks, by the file that imports them.

    Of a `try` that handles ImportError, the body or the handler must resolve.
    """
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            imports = _Imports(package)
            imports.visit(ast.parse(path.read_text(encoding="utf-8")))
            yield from (f"{path.relative_to(ROOT)}: {line}" for line in imports.missing)


class _Imports(ast.NodeVisitor):
    """Collects what a source imports in vain."""

    def __init__(self, package: Path) -> None:
        self.missing: list[str] = []
        self._package = package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and node.module and node.module.split(".")[0] == "vllm":
            defined = _names_in(_file(self._package, node.module))
            self.missing += [
                f"{node.module} has no {alias.name}"
                for alias in node.names
                if alias.name not in defined
                and _file(self._package, f"{node.module}.{alias.name}") is None
            ]

    def visit_Try(self, node: ast.Try) -> None:
        handlers = [h for h in node.handlers if ast.unparse(h.type or node) == "ImportError"]
        if not handlers:
            self.generic_visit(node)
            return
        tried, instead = self._missing_in(node.body), self._missing_in(handlers[0].body)
        if tried and instead:
            self.missing += [*tried, *instead]
        self.missing += self._missing_in([*node.orelse, *node.finalbody])

    def _missing_in(self, nodes: Iterable[ast.stmt]) -> list[str]:
        imports = _Imports(self._package)
        for node in nodes:
            imports.visit(node)
        return imports.missing


def _file(package: Path, module: str) -> Path | None:
    """Return the file of a module of vLLM's package."""
    path = package.joinpath(*module.split(".")[1:])
    files = (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())
    return next(files, None)


@cache
def _names_in(file: Path | None) -> frozenset[str]:
    """Return what a module defines or imports, wherever; nothing if there is no module."""
    names: set[str] = set()
    tree = ast.parse(file.read_text(encoding="utf-8")) if file else ast.Module([], [])
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.alias():
                names.add(node.asname or node.name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Dict(keys=keys):  # modules whose names load on demand list them
                names |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    return frozenset(names)
