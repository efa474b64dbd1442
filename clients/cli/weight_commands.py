"""`composer adapters` on this machine's disk: inspect, prune, merge, extract, unpack, patch.

torch takes seconds to import, so each command imports what it computes with.
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from clients.cli.adapter_tables import module_kinds
from clients.cli.local_work import print_report, show_progress, works_here
from clients.cli.shared_options import assignments, at_most_one
from clients.cli.tables import Json, print_table, size

Output = Annotated[Path, Option("--output", metavar="FOLDER", help="A new or empty folder.")]
BaseModelName = Annotated[
    str | None, Option("--base-model", metavar="NAME", help="In the configuration of the adapter.")
]


@works_here
def inspect(
    path: Annotated[Path, Argument(metavar="PATH", help="The folder of the adapter.")],
    base: Annotated[Path | None, Option(metavar="FOLDER", help="A model that it must fit.")] = None,
    json: Json = False,
) -> None:
    """Show what is in an adapter."""
    from adapters.generation import ALIAS, BASE
    from adapters.inspection.inspect import inspect as run
    from adapters.weight_space.patch import read_shapes

    name = path.resolve().name
    alias = name if ALIAS.fullmatch(name) and name != BASE else "adapter"
    report = run(path, alias, read_shapes(base, str(base)) if base else None)
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
def prune(
    store: Annotated[Path, Argument(metavar="FOLDER", help="That of --adapter-store.")],
    keep: Annotated[
        int,
        Option(
            min=1,
            metavar="N",
            help="Versions of each alias whose contents stay; more than 1 while servers use the "
            "store, because requests may still run with a replaced version.",
        ),
    ] = 5,
    json: Json = False,
) -> None:
    """Make room in an adapter store; servers may use it meanwhile."""
    from adapters.store.store import Store

    if not (store / "journal.jsonl").is_file():
        raise typer.BadParameter(
            f"'{store}' is not an adapter store: it has no journal.jsonl", param_hint="FOLDER"
        )
    removed = Store(store).prune(keep)
    if json:
        print(json_module.dumps({"removed": removed}))
    else:
        print("\n".join((*removed, f"{len(removed)} contents removed")))


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
        Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of the method; the value is JSON, else text. Repeatable.",
        ),
    ] = None,
    rank: Annotated[int | None, Option(help="Of the result. Default: the exact sum.")] = None,
    json: Json = False,
) -> None:
    """Merge several adapters into one; paths are relative to the current folder."""
    value: Any
    if (spec is not None) == bool(method or adapter or set_ or rank is not None):
        raise typer.BadParameter("give either SPEC.json or --method, --adapter, --set and --rank")
    if spec is None:
        members = [_member(text) for text in adapter or ()]
        parameters = assignments("--set", set_)
        value = {**parameters, "method": method, "adapters": members, "rank": rank}
    else:
        value = _read_json(spec)
    from adapters.output import new_folder
    from adapters.weight_space.factors import AdapterReader
    from adapters.weight_space.merge import MergeSpec
    from adapters.weight_space.merge import merge as run

    merged = MergeSpec.from_json(value)
    readers = [AdapterReader(Path(member.adapter)) for member in merged.adapters]
    with new_folder(output) as folder, show_progress() as progress:
        report = run(merged, readers, folder, progress)
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
    bits: Annotated[
        str | None, Option(help="Quantize by singular value: 8,3,2 or 8x2,3x32,2.")
    ] = None,
    packed: Annotated[
        Path | None, Option(metavar="FILE", help="Write the packed form, too.")
    ] = None,
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
    at_most_one({"--energy": energy, "--rank": rank})
    if energy is None and rank is None:
        raise typer.BadParameter("the size is missing: give --energy or --rank")
    from adapters.errors import MergeError
    from adapters.output import new_folder
    from adapters.weight_space.extract import ExtractSpec
    from adapters.weight_space.extract import extract as run

    options = {"energy": energy, "rank": rank, "max_rank": max_rank, "bits": bits}
    options |= {"dtype": dtype, "seed": seed, "base_model": base_model}
    spec = ExtractSpec.from_json(
        {name: value for name, value in options.items() if value is not None}
        | {"ignore_other_changes": ignore_other_changes}
    )
    if packed is not None and packed.exists():
        raise MergeError(f"'{packed}' exists already. Name a new file.", param="packed")
    with new_folder(output) as folder, show_progress() as progress:
        report = run(spec, base, tuned, folder, progress, packed)
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
    fields = [
        ("adapter", f"{output}, {size(report.adapter_bytes)}"),
        ("parameters", str(report.parameters)),
        ("unchanged modules", str(report.unchanged)),
        ("energy kept", f"{report.energy:.6f}"),
        ("error", f"{report.error:.4g}"),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    if report.packed_bytes is not None:
        fields += [
            ("error before quantization", f"{report.error_unquantized:.4g}"),
            ("bits per parameter", f"{report.bits_per_parameter:.2f}"),
            ("packed form", f"{packed or 'not written'}, {size(report.packed_bytes)}"),
        ]
    print_table(fields)


@works_here
def unpack(
    file: Annotated[Path, Argument(metavar="FILE", help="Written by 'extract --packed'.")],
    output: Output,
    json: Json = False,
) -> None:
    """Unpack the adapter in a packed file."""
    from adapters.inspection.inspect import inspect as read
    from adapters.output import new_folder
    from adapters.weight_space.extract import unpack as run

    with new_folder(output) as folder:
        run(file, folder)
        report = read(folder, "adapter")
    if not print_report(report, json=json):
        print_table([("adapter", str(output)), ("digest", report.digest)])


@works_here
def patch(
    adapter: Annotated[Path, Option(metavar="PATH", help="The folder of the adapter.")],
    to: Annotated[Path, Option(metavar="FOLDER", help="The later base model.")],
    output: Output,
    earlier: Annotated[
        Path | None,
        Option("--from", metavar="FOLDER", help="The base model that it was trained on."),
    ] = None,
    scale: Annotated[float, Option(help="What its change is multiplied with.")] = 1.0,
    base_model: BaseModelName = None,
    json: Json = False,
) -> None:
    """Carry an adapter over to a later base model."""
    from adapters.output import new_folder
    from adapters.weight_space.patch import patch as run

    with new_folder(output) as folder, show_progress() as progress:
        report = run(
            adapter,
            to,
            folder,
            earlier=earlier,
            scale=scale,
            base_model=base_model,
            progress=progress,
        )
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


COMMANDS = (inspect, merge, extract, unpack, patch, prune)


def _member(text: str) -> dict[str, object]:
    """Read `path=weight` or `path`."""
    path, equals, weight = text.rpartition("=")
    if not equals:
        return {"adapter": text, "weight": 1.0}
    try:
        return {"adapter": path, "weight": float(weight)}
    except ValueError:
        raise typer.BadParameter(
            f"'{weight}' in '{text}' is not a weight", param_hint="--adapter"
        ) from None


def _read_json(file: Path) -> object:
    from adapters.errors import MergeError

    try:
        return json_module.loads(file.read_bytes())
    except FileNotFoundError:
        raise typer.BadParameter(f"there is no file '{file}'", param_hint="SPEC.json") from None
    except ValueError as error:
        raise MergeError(f"'{file}' is not JSON: {error}. Correct it.") from None


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
