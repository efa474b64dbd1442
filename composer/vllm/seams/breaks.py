"""What has changed at the seams in another release of vLLM, from its source alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from composer.vllm.seams import common, of_runner_v1, of_runner_v2

TABLES = {"common": common, "v1": of_runner_v1, "v2": of_runner_v2}


def changed(table: str) -> Mapping[str, str]:
    """Return what is changed in vLLM: file -> stub of its classes, as Python source."""
    return TABLES[table].CHANGED


def read(table: str) -> Mapping[str, tuple[str, ...]]:
    """Return what is read: file -> texts of its source."""
    return TABLES[table].READ


def breaks(package: Path, table: str) -> Iterator[str]:
    """Yield what a release lacks or has otherwise, in words.

    Args:
        package: folder of vLLM's package.
        table: one of `TABLES`.
    """
    for file, stub in changed(table).items():
        if not (package / file).is_file():
            yield f"{file} is gone"
            continue
        installed = members((package / file).read_text())
        for name, signature in members(stub).items():
            if name not in installed:
                yield f"{file}: {name} is gone"
            elif installed[name] != signature:
                yield f"{file}: {name} is {installed[name]}, and was {signature}"
    for file, texts in read(table).items():
        source = (package / file).read_text() if (package / file).is_file() else ""
        for text in texts:
            if text not in source:
                yield f"{file}: no longer contains {text!r}"


def members(source: str) -> dict[str, str]:
    """Return class and name of every method, with its whole signature, and of every attribute that
    a class declares or assigns to itself."""
    found: dict[str, str] = {}
    for cls in ast.parse(source).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for node in ast.walk(cls):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.setdefault(f"{cls.name}.{name}", "")
        for node in cls.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    returns = ast.unparse(node.returns) if node.returns else ""
                    found[f"{cls.name}.{node.name}"] = f"({ast.unparse(node.args)}) -> {returns}"
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Expr(value=ast.Name(id=name)):
                    found.setdefault(f"{cls.name}.{name}", "")
    return found
