"""What the commands of `adapters.cli` do; each takes the parsed arguments and prints its result.

torch takes seconds to import, so only the functions that compute with it import what needs it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from adapters.errors import MergeError
from adapters.generation import ALIAS
from adapters.inspection import inspect as inspection
from adapters.output import new_folder, print_fields, print_table, progress_bar
from adapters.weight_space import patch as patching
from composer.fields import BASE

Action = Callable[[argparse.Namespace], None]


class UsageError(Exception):
    """The options contradict each other; the message says which."""


class Result(Protocol):
    """A report, of whatever command."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def to_json(self) -> Mapping[str, object]: ...


def inspect(arguments: argparse.Namespace) -> None:
    path: Path = arguments.path
    base = patching.read_shapes(arguments.base, str(arguments.base)) if arguments.base else None
    name = path.resolve().name
    alias = name if ALIAS.fullmatch(name) and name != BASE else "adapter"
    report = inspection.inspect(path, alias, base)
    if _finished(arguments, report):
        return
    kinds = sorted({module.rpartition(".")[2] for module in report.modules})
    print_fields([
        ("rank", str(report.rank)),
        ("scaling", ", ".join(f"{scale:g}" for scale in report.scaling)),
        ("modules", f"{len(report.modules)}: {', '.join(kinds)}"),
        ("dtypes", ", ".join(report.dtypes)),
        ("parameters", str(report.parameters)),
        ("size", _size(report.size_bytes)),
        ("base model", report.base_model or "not named"),
        ("digest", report.digest),
    ])  # fmt: skip


def prune(arguments: argparse.Namespace) -> None:
    """Servers that use the store may run meanwhile."""
    from adapters.store.store import Store  # the other commands have no store

    if not (arguments.store / "journal.jsonl").is_file():
        raise UsageError(f"{arguments.store} is no adapter store; it has no journal.jsonl")
    removed = Store(arguments.store).prune(arguments.keep)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    else:
        print("\n".join((*removed, f"{len(removed)} contents removed")))


def merge(arguments: argparse.Namespace) -> None:
    """Adapters are folders; relative ones are found from the current folder."""
    report = _compute("merge", _merge_spec(arguments), arguments)
    if _finished(arguments, report):
        return
    rows = [(m.module, str(m.rank), f"{m.energy:.6f}") for m in report.modules]
    print_table([("module", "rank", "energy"), *rows])
    print()
    print_fields([
        ("adapter", str(arguments.output)),
        ("rank", str(report.rank)),
        ("energy kept", f"{report.energy:.6f}"),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip


def extract(arguments: argparse.Namespace) -> None:
    names = ("base", "tuned", "energy", "rank", "max_rank", "dtype", "seed", "base_model")
    report = _compute(
        "extract",
        _options(arguments, *names, "ignore_other_changes"),
        arguments,
    )
    if _finished(arguments, report):
        return
    rows = [
        (
            m.module,
            "x".join(map(str, m.shape)),
            str(m.rank),
            _ratio(m.relative_change),
            f"{m.energy:.4f}",
            f"{m.error:.3g}",
        )
        for m in report.modules
    ]
    print_table([("module", "shape", "rank", "change", "energy", "error"), *rows])
    print()
    print_fields([
        ("adapter", f"{arguments.output}, {_size(report.adapter_bytes)}"),
        ("parameters", str(report.parameters)),
        ("unchanged modules", str(report.unchanged)),
        ("energy kept", f"{report.energy:.6f}"),
        ("error", f"{report.error:.4g}"),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip


def patch(arguments: argparse.Namespace) -> None:
    names = ("adapter", "to", "earlier", "scale", "base_model")
    report = _compute("patch", _options(arguments, *names), arguments)
    if _finished(arguments, report):
        return
    if report.distances:
        rows = [(d.module, _ratio(d.relative)) for d in report.distances]
        print_table([("module", "distance of the bases"), *rows])
        print()
    print_fields([
        ("adapter", str(arguments.output)),
        ("trained on", report.trained_on or "not named"),
        ("now for", report.base_model),
        ("scale", f"{report.scale:g}"),
    ])  # fmt: skip


def _compute(kind: str, value: Any, arguments: argparse.Namespace) -> Any:
    """Compute a job of `adapters.weight_space.jobs` into the folder of --output."""
    from adapters.weight_space.jobs import compute, read_job

    job = read_job(kind, value)
    with new_folder(arguments.output) as folder, progress_bar() as progress:
        return compute(job, folder, progress)


def _options(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that have a value."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _merge_spec(arguments: argparse.Namespace) -> Any:
    """The JSON object that SPEC.json holds or the options say."""
    options: dict[str, Any] = dict(arguments.set)
    if len(options) != len(arguments.set):
        raise UsageError("--set gives a parameter twice")
    given = bool(arguments.method or arguments.adapter or options or arguments.rank is not None)
    if (arguments.spec is not None) == given:
        raise UsageError("give either SPEC.json or --method, --adapter, --set and --rank")
    if arguments.spec is None:
        members = [{"adapter": path, "weight": weight} for path, weight in arguments.adapter]
        return options | {
            "method": arguments.method, "adapters": members, "rank": arguments.rank
        }  # fmt: skip
    try:
        return json.loads(arguments.spec.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"there is no file '{arguments.spec}'") from None
    except ValueError as error:
        raise MergeError(f"'{arguments.spec}' is not JSON: {error}. Correct it.") from None


def _finished(arguments: argparse.Namespace, report: Result) -> bool:
    """Prints the report as JSON if that is wanted, or else its warnings."""
    if arguments.json:
        print(json.dumps(report.to_json()))
        return True
    for warning in report.warnings:
        print(f"composer: warning: {warning}", file=sys.stderr)
    return False


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _size(size_bytes: int) -> str:
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.1f} kB"
    return f"{size_bytes / 10**6:.1f} MB"
