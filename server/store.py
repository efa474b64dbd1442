"""Stored compositions: a JSON file that is replaced as a whole, or memory alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import TypeAlias

from composer.errors import CompositionSchemaError, quoted
from server.errors import CompositionNotFoundError, StoreError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_VERSION = 1


def check_name(name: str) -> str:
    """`name`, if it may name a composition. Raises `CompositionSchemaError` otherwise."""
    if not NAME.fullmatch(name):
        raise CompositionSchemaError(
            f"{quoted(name)} cannot name a composition. Use 1 to 64 letters, digits and _ . - "
            "that start with a letter or _.",
            param="name",
        )
    return name


class CompositionStore:
    """Name to composition, as the client wrote it. Safe to use from several threads."""

    def __init__(self, file: Path | None) -> None:
        """Read `file`; it need not exist yet. Raises `StoreError` where it cannot be read."""
        self._file = file
        self._lock = threading.Lock()
        self._compositions: dict[str, Json] = _read(file) if file is not None else {}

    def get(self, name: str) -> Json:
        """The composition called `name`. Raises `CompositionNotFoundError`."""
        try:
            return self._compositions[name]
        except KeyError:
            raise CompositionNotFoundError(
                f"no composition is called {quoted(name)}. GET /v1/compositions lists them.",
                param="name",
            ) from None

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._compositions))

    def __contains__(self, name: object) -> bool:
        return name in self._compositions

    def put(self, name: str, composition: Json) -> bool:
        """Store, and tell whether the name is new. When this returns, the file is on disk."""
        check_name(name)
        with self._lock:
            new = name not in self._compositions
            self._replace({**self._compositions, name: composition})
        return new

    def delete(self, name: str) -> None:
        """Forget `name`. Raises `CompositionNotFoundError`."""
        with self._lock:
            self.get(name)
            self._replace({k: v for k, v in self._compositions.items() if k != name})

    def _replace(self, compositions: dict[str, Json]) -> None:
        # Memory follows the disk: a failed write changes neither.
        if self._file is not None:
            _write(self._file, compositions)
        self._compositions = compositions


def _read(file: Path) -> dict[str, Json]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the compositions file {file} cannot be read: {error}. Mend it or move it away."
        ) from error
    compositions = content.get("compositions") if isinstance(content, dict) else None
    if not isinstance(compositions, dict) or content.get("version") != _VERSION:
        raise StoreError(
            f"{file} is not a compositions file of version {_VERSION}. Move it away, or give "
            "another --compositions-file."
        )
    return {check_name(name): value for name, value in compositions.items()}


def _write(file: Path, compositions: dict[str, Json]) -> None:
    """Write beside `file`, flush to disk, then rename over it: readers see old or new, whole."""
    text = json.dumps(
        {"version": _VERSION, "compositions": compositions}, indent=2, ensure_ascii=False
    )
    temporary: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False
        ) as out:
            temporary = Path(out.name)
            out.write(text + "\n")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"the compositions file {file} cannot be written: {error}.") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; systems without open folders do so on their own."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
