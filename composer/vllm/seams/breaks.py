"""What has changed at the seams in another release of vLLM, from its source alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.vllm.seams import common, of_runner_v1, of_runner_v2

TABLES: dict[str, Any] = {"common": common, "v1": of_runner_v1, "v2": of_runner_v2}


def changed(table: str) -> Mapping[str, str]:
    """Return what is changed in vLLM: file -> stub of its classes, as Python source.

    A method that differs between the supported releases stands there once for each. What is in a
    class with the decorator `optional` may be missing. A class with the decorator `complete` is
    copied or implemented by ours: it may have no further fields or abstract methods.
    """
    stubs: Mapping[str, str] = TABLES[table].CHANGED
    return stubs


def read(table: str) -> Mapping[str, tuple[str | tuple[str, ...], ...]]:
    """Return what is read: file -> texts of its source.

    Several texts in one place are those of several releases, and so are files joined by " or ".
    """
    texts: Mapping[str, tuple[str | tuple[str, ...], ...]] = TABLES[table].READ
    return texts


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
        installed = Members.of((package / file).read_text())
        for line in _differences(Members.of(stub), installed):
            yield f"{file}: {line}"
    for files, texts in read(table).items():
        paths = [package / file for file in files.split(" or ")]
        source = "\n".join(path.read_text() for path in paths if path.is_file())
        for text in texts:
            accepted = (text,) if isinstance(text, str) else text
            if not any(one in source for one in accepted):
                yield f"{files}: no longer contains {' or '.join(map(repr, accepted))}"


@dataclass(frozen=True, slots=True)
class Members:
    """What the classes of a source have, as `Class.name`."""

    signatures: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Of methods; those of attributes that a class declares or assigns to itself are empty."""

    fields: set[str] = field(default_factory=set)  # declared with a type
    abstract: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)
    complete: set[str] = field(default_factory=set)  # names of classes

    @classmethod
    def of(cls, source: str) -> Members:
        """Read Python source."""
        members = cls()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                members._add(node)
        return members

    def _add(self, cls: ast.ClassDef) -> None:
        names = set()
        for node in cls.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    name = f"{cls.name}.{node.name}"
                    returns = ast.unparse(node.returns) if node.returns else ""
                    self.signatures[name].append(f"({ast.unparse(node.args)}) -> {returns}")
                    if "abstractmethod" in _decorators(node):
                        self.abstract.add(name)
                case ast.AnnAssign(target=ast.Name(id=attribute)):
                    name = f"{cls.name}.{attribute}"
                    self.signatures[name].append("")
                    self.fields.add(name)
                case ast.Expr(value=ast.Name(id=attribute)):
                    name = f"{cls.name}.{attribute}"
                    self.signatures[name].append("")
                case _:
                    continue
            names.add(name)
        for child in ast.walk(cls):
            match child:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    if f"{cls.name}.{name}" not in self.signatures:
                        self.signatures[f"{cls.name}.{name}"].append("")
        if "optional" in _decorators(cls):
            self.optional.update(names)
        if "complete" in _decorators(cls):
            self.complete.add(cls.name)


def _decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def _differences(stub: Members, installed: Members) -> Iterator[str]:
    """Yield what differs from a stub; only what the stub has is compared."""
    for name, accepted in stub.signatures.items():
        if name not in installed.signatures:
            if name not in stub.optional:
                yield f"{name} is gone"
        elif (signature := installed.signatures[name][-1]) not in accepted:
            yield f"{name} is {signature}, and was {' or '.join(accepted)}"
    for name in sorted((installed.abstract | installed.fields) - stub.signatures.keys()):
        if name.partition(".")[0] in stub.complete:
            yield f"{name} is new"
