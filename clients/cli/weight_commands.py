"""`composer adapters` on this machine's disk: inspect, merge, extract, patch, prune."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from clients.cli.adapter_tables import module_kinds
from clients.cli.local_work import print_report, show_progress, works_here
from clients.cli.shared_options import assignments
from clients.cli.tables import Json, print_table, size

Output = Annotated[Path, Option(metavar="FOLDER", help="A new or empty folder.")]
BaseModelName = Annotated[
    str | None, Option(metavar="NAME", help="Name of the base model in the configuration.")
]


@works_here
def inspect(
    path: Annotated[Path, Argument(metavar="PATH", help="The folder of the adapter.")],
    base: Annotated[Path | None, Option(metavar="FOLDER", help="A model that it must fit.")] = None,
    convert: Annotated[
        Path | None,
        Option(metavar="NEW_FOLDER", help="Convert an adapter of another kind; needs --base."),
    ] = None,
    initial: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="The adapter before training, if that changed the base."),
    ] = None,
    rank: Annotated[int | None, Option(help="Convert inexactly, at most at this rank.")] = None,
    energy: Annotated[
        float | None, Option(help="Convert inexactly, keeping this share of each change.")
    ] = None,
    base_model: BaseModelName = None,
    json: Json = False,
) -> None:
    """Show what is in an adapter, or convert one of another kind into plain LoRA."""
    if convert is not None:
        if base is None:
            raise typer.BadParameter("needs --base FOLDER, the model that it was trained on")
        options: dict[str, object] = {"adapter": path, "base": base, "initial": initial}
        options |= {"rank": rank, "energy": energy, "base_model": base_model}
        converted = _compute("convert", _present(options), convert)
        if not print_report(converted, json=json):
            _print_conversion(converted, convert)
        return
    if given := _present({"--initial": initial, "--rank": rank, "--energy": energy}):
        raise typer.BadParameter(f"without --convert NEW_FOLDER there is no {' or '.join(given)}")
    from adapters.generation import alias_of
    from adapters.inspection.inspect import inspect as run
    from adapters.weight_space.patch import read_shapes

    report = run(path, alias_of(path.resolve()), read_shapes(base, str(base)) if base else None)
    if print_report(report, json=json):
        return
    print_table([
        ("rank", str(report.rank)),
        ("scaling", ", ".join(f"{scale:g}" for scale in report.scaling)),
        ("modules", module_kinds(report.modules)),
        ("dtypes", ", ".join(report.dtypes)),
        ("parameters", str(report.parameters)),
        ("size", size(report.size_bytes)),
        ("base model", report.base_model or "not named"),
        ("digest", report.digest),
    ])  # fmt: skip


@works_here
def merge(
    output: Output,
    spec: Annotated[
        Path | None, Argument(metavar="SPEC.json", help="The whole merge as JSON.")
    ] = None,
    method: Annotated[
        str | None, Option(help="Such as sum or ties; an unknown name lists them all.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        Option(metavar="PATH=WEIGHT", help="The weight is 1 if it is left out. Repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="A parameter of the method. Repeatable."),
    ] = None,
    rank: Annotated[int | None, Option(help="Of the result. Default: the exact sum.")] = None,
    json: Json = False,
) -> None:
    """Merge several adapters into one; paths are relative to the current folder."""
    if (spec is not None) == bool(method or adapter or set_ or rank is not None):
        raise typer.BadParameter("give either SPEC.json or --method, --adapter, --set and --rank")
    if spec is None:
        members = [_member(text) for text in adapter or ()]
        options = _present({"method": method, "adapters": members, "rank": rank})
        report = _compute("merge", assignments("--set", set_) | options, output)
    else:
        report = _compute("merge", _read_json(spec), output)
    if print_report(report, json=json):
        return
    rows = [(m.module, str(m.rank), f"{m.energy:.6f}") for m in report.modules]
    print_table([("module", "rank", "energy"), *rows], numbers=True)
    print()
    print_table([
        ("adapter", str(output)),
        ("rank", str(report.rank)),
        ("energy kept", f"{report.energy:.6f}"),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip


@works_here
def extract(
    base: Annotated[Path, Option(metavar="FOLDER", help="The base model.")],
    tuned: Annotated[Path, Option(metavar="FOLDER", help="The full fine-tune.")],
    output: Output,
    energy: Annotated[
        float | None, Option(help="Share of each change to keep, such as 0.95.")
    ] = None,
    rank: Annotated[int | None, Option(help="The same rank for every module.")] = None,
    max_rank: Annotated[int | None, Option(help="The bound with --energy. Default: 512.")] = None,
    ignore_other_changes: Annotated[
        bool,
        Option(
            "--ignore-other-changes",
            help="Leave out changed norms, biases, embeddings and new tokens.",
        ),
    ] = False,
    dtype: Annotated[str | None, Option(help="float32 (default), bfloat16 or float16.")] = None,
    seed: Annotated[int | None, Option(help="Of the randomized search. Default: 0.")] = None,
    base_model: BaseModelName = None,
    json: Json = False,
) -> None:
    """Extract an adapter from a full fine-tune."""
    if (energy is None) == (rank is None):
        raise typer.BadParameter("give either --energy or --rank")
    options = {
        **{"base": base, "tuned": tuned, "energy": energy, "rank": rank, "max_rank": max_rank},
        **{"ignore_other_changes": ignore_other_changes, "dtype": dtype, "seed": seed},
        "base_model": base_model,
    }
    report = _compute("extract", _present(options), output)
    if print_report(report, json=json):
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
    header = ("module", "shape", "rank", "change", "energy", "error")
    print_table([header, *rows], numbers=True)
    print()
    print_table([
        ("adapter", f"{output}, {size(report.adapter_bytes)}"),
        ("parameters", str(report.parameters)),
        ("unchanged modules", str(report.unchanged)),
        ("energy kept", f"{report.energy:.6f}"),
        ("error", f"{report.error:.4g}"),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip


@works_here
def patch(
    adapter: Annotated[Path, Option(metavar="PATH", help="The folder of the adapter.")],
    to: Annotated[Path, Option(metavar="FOLDER", help="The later base model.")],
    output: Output,
    earlier: Annotated[
        Path | None, Option("--from", metavar="FOLDER", help="The base that it was trained on.")
    ] = None,
    scale: Annotated[float, Option(help="Factor of its change.")] = 1.0,
    base_model: BaseModelName = None,
    json: Json = False,
) -> None:
    """Carry an adapter over to a later base model."""
    options = {"adapter": adapter, "to": to, "earlier": earlier, "scale": scale}
    report = _compute("patch", _present({**options, "base_model": base_model}), output)
    if print_report(report, json=json):
        return
    if report.distances:
        rows = [(d.module, _ratio(d.relative)) for d in report.distances]
        print_table([("module", "distance of the bases"), *rows], numbers=True)
        print()
    print_table([
        ("adapter", str(output)),
        ("trained on", report.trained_on or "not named"),
        ("now for", report.base_model),
        ("scale", f"{report.scale:g}"),
    ])  # fmt: skip


@works_here
def prune(
    store: Annotated[Path, Argument(metavar="FOLDER", help="That of --adapter-store.")],
    keep: Annotated[
        int,
        Option(
            min=1,
            help="Versions of each alias whose contents stay; more than 1 while servers use the "
            "store, because requests may still run with a replaced version.",
        ),
    ] = 5,
    json: Json = False,
) -> None:
    """Make room in an adapter store; servers may use it meanwhile."""
    from adapters.store.store import Store

    if not (store / "journal.jsonl").is_file():
        raise typer.BadParameter(f"'{store}' is not an adapter store: it has no journal.jsonl")
    removed = Store(store).prune(keep)
    if json:
        print(json_module.dumps({"removed": removed}))
    else:
        print("\n".join((*removed, f"{len(removed)} contents removed")))


def _print_conversion(report: Any, output: Path) -> None:
    print_table([
        ("adapter", f"{output}, {size(report.adapter_bytes)}"),
        ("converted from", report.kind),
        ("modules", module_kinds(tuple(module.module for module in report.modules))),
        ("rank", str(report.rank)),
        ("exact", "yes" if report.exact else "no"),
        ("error of a module", f"at most {report.error:.2g} of its change"),
        ("error of the logits", f"{report.logit_error:.2g}; it changes them by "
                                f"{report.logit_change:.2g}"),
        ("base model", report.base_model),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip


COMMANDS = (inspect, merge, extract, patch, prune)


def _compute(kind: str, value: Any, output: Path) -> Any:
    """Compute a job into the folder `output` and return its report."""
    from adapters.output import new_folder
    from adapters.weight_space.jobs import compute, read_job

    job = read_job(kind, value)
    with new_folder(output) as folder, show_progress() as progress:
        return compute(job, folder, progress)


def _present(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _member(text: str) -> dict[str, object]:
    """Read `path=weight` or `path`."""
    path, equals, weight = text.rpartition("=")
    if not equals:
        return {"adapter": text, "weight": 1.0}
    try:
        return {"adapter": path, "weight": float(weight)}
    except ValueError:
        message = f"'{weight}' in '{text}' is not a weight"
        raise typer.BadParameter(message, param_hint="--adapter") from None


def _read_json(file: Path) -> object:
    from adapters.errors import MergeError

    try:
        return json_module.loads(file.read_bytes())
    except FileNotFoundError:
        raise typer.BadParameter(f"there is no file '{file}'") from None
    except ValueError as error:
        raise MergeError(f"'{file}' is not JSON: {error}. Correct it.") from None


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
