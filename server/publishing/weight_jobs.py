"""Adapters computed from others: merged, extracted from a full fine-tune, or carried to this base.

Each runs in a process of its own, so that minutes of computing do not hold up the event loop. It
reads and writes folders; what comes out is published like any other adapter.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters import (
    CONFIG,
    WEIGHTS,
    MergeError,
    SourceError,
    SourceRules,
    Store,
    StoreFullError,
    fetch,
)
from adapters.disk import FULL
from composer.errors import quoted
from server.publishing.publisher import Fetch

_ROOT = Path(__file__).resolve().parents[2]
_FILES = (CONFIG, WEIGHTS)
_EXTRACT_OPTIONS = ("energy", "rank", "max_rank", "bits", "dtype", "seed")


class WeightSpace:
    """`base` is the folder of the base model that is served."""

    def __init__(self, store: Store, rules: SourceRules, base: Path) -> None:
        self._store = store
        self._rules = rules
        self._base = base

    def merge(self, spec: Mapping[str, Any]) -> Fetch:
        """Merge served adapters; `spec` is that of `composer adapters merge`, with aliases."""

        def merged(destination: Path) -> Mapping[str, object]:
            inputs = spec.get("adapters")
            if not isinstance(inputs, list) or not inputs:
                raise MergeError(
                    f"'adapters' of the merge is {inputs!r}. Give a list like "
                    '[{"adapter": "polite", "weight": 1.0}].'
                )
            digests: dict[str, str] = {}
            bound = []
            for entry in inputs:
                alias = entry.get("adapter") if isinstance(entry, dict) else None
                if not isinstance(alias, str):
                    raise MergeError(
                        f'{entry!r} names no adapter. Give {{"adapter": ALIAS, "weight": 1.0}}.'
                    )
                digest = digests[alias] = str(self._store.current(alias).digest)
                bound.append(entry | {"adapter": str(self._store.stored(digest).path)})
            with tempfile.TemporaryDirectory(dir=destination) as scratch:
                file = Path(scratch, "spec.json")
                file.write_text(json.dumps({**spec, "adapters": bound}))
                report = _run(["merge", str(file)], Path(scratch, "out"), destination)
            return {"merge": dict(spec), "inputs": digests, "report": report}

        return merged

    def extract(self, spec: Mapping[str, Any]) -> Fetch:
        """Extract an adapter from a full fine-tune of the base, in a folder below the root."""

        def extracted(destination: Path) -> Mapping[str, object]:
            options = dict(spec)
            tuned = _below(self._rules.root, options.pop("tuned", None))
            words = ["extract", "--base", str(self._base), "--tuned", str(tuned)]
            words += _options(options, _EXTRACT_OPTIONS, ("ignore_other_changes",))
            with tempfile.TemporaryDirectory(dir=destination) as scratch:
                report = _run(words, Path(scratch, "out"), destination)
            return {"extract": dict(spec), "report": report}

        return extracted

    def patch(self, spec: Mapping[str, Any]) -> Fetch:
        """Carry an adapter of an earlier version of the base over to the one that is served."""

        def patched(destination: Path) -> Mapping[str, object]:
            options = dict(spec)
            source = str(options.pop("source", ""))
            with tempfile.TemporaryDirectory(dir=destination) as scratch:
                old = Path(scratch, "old")
                old.mkdir()
                origin = fetch(source, old, self._rules)
                words = ["patch", "--adapter", str(old), "--to", str(self._base)]
                words += _options(options, ("scale",))
                report = _run(words, Path(scratch, "out"), destination)
            return {"patch": dict(spec), "of": origin, "report": report}

        return patched


def _below(root: Path | None, path: object) -> Path:
    """The folder `path` below the adapter root, symbolic links resolved."""
    if root is None or not isinstance(path, str):
        raise SourceError(
            f"'tuned' is {path!r}. Give a folder below that of --adapter-root, which this server "
            f"{'does not have' if root is None else 'has'}."
        )
    found = (root / path).resolve()
    if not found.is_relative_to(root.resolve()) or not found.is_dir():
        raise SourceError(
            f"{quoted(path)} is no folder below that of --adapter-root. Put the model there."
        )
    return found


def _options(
    given: Mapping[str, Any], known: Sequence[str], flags: Sequence[str] = ()
) -> list[str]:
    """The options of a specification as words of the command line."""
    words = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name in flags and isinstance(value, bool):
            words += [option] * value
        elif name in known and isinstance(value, int | float | str) and not isinstance(value, bool):
            words.append(f"{option}={value}")
        else:
            raise MergeError(
                f"the option '{name}' with the value {value!r} is not understood. "
                f"Use {', '.join((*known, *flags))}."
            )
    return words


def _run(words: Sequence[str], out: Path, destination: Path) -> object:
    """Run `python -m adapters`, keep the two files of the adapter, and return its report.

    Raises:
        MergeError: with what the program said.
        StoreFullError: it had no room to write.
    """
    done = subprocess.run(
        [sys.executable, "-m", "adapters", *words, "--output", str(out), "--json"],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        problem = said[-1].removeprefix("composer: ")
        if any(os.strerror(code) in problem for code in FULL):
            raise StoreFullError(
                f"the adapter could not be computed: {problem}. Make room on the disk of the "
                "adapter store; nothing was published."
            )
        raise MergeError(problem)
    for name in _FILES:
        shutil.move(out / name, destination / name)
    return json.loads(done.stdout)
