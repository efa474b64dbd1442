"""Carry an adapter trained on one version of a base model over to a later version.

    W_later + b @ a    instead of    W_earlier + b @ a

The change of a training run is added to other weights without further training: PortLLM (Khan et
al. 2024, arXiv:2410.10870); for whole models "fine-tuning transfer" (Lin et al. 2025,
arXiv:2503.20110). The closer the two versions, the better it works; the files cannot show how well,
so the report gives their distance and a warning to measure.

The tensors are copied byte for byte; only the configuration changes. Imports torch for distances
only.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from adapters.errors import MergeError
from adapters.files import CONFIG, WEIGHTS
from adapters.generation import alias_of
from adapters.inspection.inspect import inspect
from adapters.inspection.model_shapes import ModelShapes
from adapters.inspection.problems import Report

_MEASURE = (
    "nothing was trained on the new base: measure the adapter's quality there before you serve it"
)


@dataclass(frozen=True, slots=True)
class ModuleDistance:
    """The distance of the two bases in one module.

    relative: |W_later - W_earlier| / |W_earlier|, Frobenius norms; None if W_earlier is zero or a
    weight is not finite.
    """

    module: str
    relative: float | None


@dataclass(frozen=True, slots=True)
class PatchReport:
    """The lineage of a carried adapter.

    digest: of the adapter before. trained_on: the base model in its configuration.
    distances: of the modules that the adapter changes; empty without the earlier base.
    """

    digest: str
    trained_on: str | None
    base_model: str
    scale: float
    modules: tuple[str, ...]
    distances: tuple[ModuleDistance, ...]
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def patch(
    adapter: Path,
    to: Path,
    destination: Path,
    *,
    earlier: Path | None = None,
    scale: float = 1.0,
    base_model: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> PatchReport:
    """Write the adapter's two files for the base model in the folder `to` into `destination`.

    earlier: folder of the base that the adapter was trained on, to report its distance to `to`.
    scale: factor of the adapter's change. base_model: name of the new base in the configuration;
    by default its folder.

    Raises:
        AdapterError: the adapter cannot be served, before or after it is scaled, or does not fit
            `to` or `earlier`.
        MergeError: a folder does not hold a readable model, or the scale is 0 or not finite.
    """
    started = time.monotonic()
    if not scale or not math.isfinite(scale):
        raise MergeError(
            f"The scale {scale} cannot scale an adapter. Give a finite number other than 0.",
            param="scale",
        )
    name = alias_of(adapter)
    report = inspect(adapter, name, read_shapes(to))
    if earlier is not None:
        inspect(adapter, name, read_shapes(earlier))
    distances = _distances(report.modules, earlier, to, progress) if earlier is not None else ()
    recorded = base_model or str(to)
    destination.mkdir(parents=True, exist_ok=True)
    config = json.loads((adapter / CONFIG).read_bytes())
    rewritten = _configuration(config, recorded, scale)
    (destination / CONFIG).write_text(json.dumps(rewritten, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(adapter / WEIGHTS, destination / WEIGHTS)
    inspect(destination, name)  # the scaled adapter may be out of range
    return PatchReport(
        digest=report.digest,
        trained_on=report.base_model,
        base_model=recorded,
        scale=scale,
        modules=report.modules,
        distances=distances,
        seconds=time.monotonic() - started,
        warnings=(_MEASURE, *_warnings(report, distances, earlier, to)),
    )


def read_shapes(folder: Path, name: str | None = None) -> ModelShapes:
    """Return the shapes of a model; `name` is compared with an adapter's lineage.

    Raises:
        MergeError: the folder does not hold a readable model.
    """
    try:
        shapes = ModelShapes.read(folder, name)
    except (OSError, SafetensorError) as error:
        raise MergeError(
            f"the model in '{folder}' cannot be read: {error}. Copy or download it again."
        ) from None
    if shapes is None:
        raise MergeError(
            f"'{folder}' holds no .safetensors file. Give the folder of a whole model."
        )
    return shapes


def _configuration(config: dict[str, Any], base_model: str, scale: float) -> dict[str, Any]:
    """Return the new configuration; the scale goes into alpha, so the tensors stay unchanged."""
    changed: dict[str, Any] = {"base_model_name_or_path": base_model, "revision": None}
    if scale != 1:
        patterns = config.get("alpha_pattern") or {}
        changed["lora_alpha"] = _times(config["lora_alpha"], scale)
        changed["alpha_pattern"] = {name: _times(value, scale) for name, value in patterns.items()}
    return config | changed


def _times(alpha: float, scale: float) -> float:
    product = alpha * scale
    return int(product) if float(product).is_integer() else product


def _distances(
    modules: Sequence[str],
    earlier: Path,
    to: Path,
    progress: Callable[[int, int, str], None] | None,
) -> tuple[ModuleDistance, ...]:
    """Return the distances of the modules with a weight matrix in both models."""
    from adapters.weight_space.distance import difference  # torch takes seconds to import
    from adapters.weight_space.model_weights import ModelWeights

    old, new = ModelWeights(earlier), ModelWeights(to)
    old_shapes, new_shapes = read_shapes(earlier), read_shapes(to)
    distances = []
    for done, module in enumerate(modules, 1):
        name, new_name = (f"{shapes.find(module)}.weight" for shapes in (old_shapes, new_shapes))
        info, new_info = old.tensors.get(name), new.tensors.get(new_name)
        if info and new_info and info.shape == new_info.shape:
            distance = difference(old, new, name, new_name=new_name)
            distances.append(ModuleDistance(module, distance.relative))
        if progress is not None:
            progress(done, len(modules), module)
    return tuple(distances)


def _warnings(
    report: Report, distances: Sequence[ModuleDistance], earlier: Path | None, to: Path
) -> list[str]:
    texts = list(report.warnings)
    if report.base_model is None:
        texts.append("the adapter does not say which base it was trained on")
    if earlier is None:
        texts.append("the distance to the earlier base is unknown: give its folder to report it")
        return texts
    if distances and all(d.relative == 0 for d in distances):
        texts.append("the two bases are the same in every module that the adapter changes")
    if len({_tokenizer(folder) for folder in (earlier, to)} - {None}) > 1:
        texts.append("the two bases have different tokenizers: prompts become other tokens")
    return texts


def _tokenizer(folder: Path) -> str | None:
    file = folder / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
