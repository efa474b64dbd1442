"""`python -m bench.peft_merges`: the error of merged adapters, ours and PEFT's.

Merges pairs of adapters with this project and with PEFT's `add_weighted_adapter`, and prints the
relative Frobenius distance over all modules to the dense result in float64: first to the weighted
sum of the deltas, then to TIES on the deltas. Deltas are those that PEFT applies to the base model.
"best" is the smallest distance of any adapter of that rank (Eckart and Young 1936).

In PEFT, "linear" and "ties" treat A and B separately, which adds cross terms B_1 A_2; "ties_svd"
trims each matrix by itself; and merges of rank-stabilized adapters keep `use_rslora`, so that they
are too large by the root of their rank (huggingface/peft#3449).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import zoo
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeSpec, merge
from bench.machine.hardware import describe
from bench.measure import show, table

RANK = 16
DENSITY = 0.2
WEIGHTS = (1.0, 0.7)

Deltas: TypeAlias = Mapping[str, Tensor]
"""Module -> delta [out, in] f64."""


@dataclass(frozen=True, slots=True)
class Case:
    """Two adapters; the name says what is special about them."""

    name: str
    folders: tuple[Path, Path]


def zoo_cases() -> list[Case]:
    """Return pairs of the zoo's adapters."""
    pairs = (("polite", "rude"), ("chat", "arithmetic"), ("reverse", "velan"))
    return [
        Case(f"{a}, {b} (r 16, alpha 32)", (zoo.ADAPTERS[a], zoo.ADAPTERS[b])) for a, b in pairs
    ]


def synthetic_cases(root: Path) -> list[Case]:
    """Return pairs of random adapters of the zoo's base model, with the ranks and scales named."""
    kinds: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (
        ("alpha = r", {"r": 16, "lora_alpha": 16}, {"r": 16, "lora_alpha": 16}),
        ("alpha = 4r", {"r": 16, "lora_alpha": 64}, {"r": 16, "lora_alpha": 64}),
        ("alpha = r/2 and 4r", {"r": 16, "lora_alpha": 8}, {"r": 16, "lora_alpha": 64}),
        ("r 8 and 16", {"r": 8, "lora_alpha": 16}, {"r": 16, "lora_alpha": 16}),
        (
            "rank-stabilized, alpha = r",
            {"r": 16, "lora_alpha": 16, "use_rslora": True},
            {"r": 16, "lora_alpha": 16, "use_rslora": True},
        ),
    )
    cases = []
    for number, (name, *configs) in enumerate(kinds):
        first, second = (
            write_random(root / f"{number}-{i}", 10 * number + i, config)
            for i, config in enumerate(configs)
        )
        cases.append(Case(f"random, {name}", (first, second)))
    return cases


def write_random(folder: Path, seed: int, config: Mapping[str, Any]) -> Path:
    """Write an adapter shaped like `polite`, with random factors of the rank in `config`."""
    like = zoo.ADAPTERS["polite"]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in load_file(like / "adapter_model.safetensors").items():
        height, width = tensor.shape
        shape = (config["r"], width) if "lora_A" in name else (height, config["r"])
        tensors[name] = torch.randn(shape, generator=generator) / 16
    folder.mkdir()
    fields = json.loads((like / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


class Peft:
    """The base model with both adapters of a case in PEFT."""

    def __init__(self, case: Case) -> None:
        base = AutoModelForCausalLM.from_pretrained(zoo.BASE, dtype=torch.float32)
        self.model: Any = PeftModel.from_pretrained(base, str(case.folders[0]), adapter_name="0")
        self.model.load_adapter(str(case.folders[1]), adapter_name="1")

    def deltas(self, adapter: str) -> Deltas:
        """Return the deltas that PEFT applies for an adapter."""
        prefix = "base_model.model."
        return {
            name.removeprefix(prefix): layer.get_delta_weight(adapter).double().clone()
            for name, layer in self.model.named_modules()
            if adapter in getattr(layer, "lora_A", {})
        }

    def merged(self, kind: str, weights: Sequence[float], **options: Any) -> Deltas | str:
        """Return the deltas of PEFT's merge, or why PEFT refuses it."""
        try:
            self.model.add_weighted_adapter(["0", "1"], list(weights), kind, kind, **options)
        except ValueError as error:
            return f"refused: {error}"
        return self.deltas(kind)


def ours(case: Case, root: Path, method: str, weights: Sequence[float], **rest: Any) -> Deltas:
    """Return the deltas of our merge, as PEFT applies them."""
    spec = MergeSpec.from_json(
        {
            "method": method,
            "adapters": [
                {"adapter": f.name, "weight": w} for f, w in zip(case.folders, weights, strict=True)
            ],
            **rest,
        }
    )
    folder = Path(tempfile.mkdtemp(dir=root))
    merge(spec, [AdapterReader(f) for f in case.folders], folder)
    return Peft(Case("merged", (folder, folder))).deltas("0")


def weighted_sum(parts: Sequence[Deltas], weights: Sequence[float]) -> Deltas:
    """Return the weighted sum of deltas."""
    return {
        m: sum((w * d[m] for w, d in zip(weights, parts, strict=True)), torch.zeros(()))
        for m in parts[0]
    }


def dense_ties(parts: Sequence[Deltas], density: float) -> Deltas:
    """Return TIES with lambda 1 as in the paper, with one threshold per task vector."""
    trimmed = []
    for part in parts:
        vector = torch.cat([delta.abs().flatten() for delta in part.values()])
        cut = vector.kthvalue(len(vector) - round(density * len(vector)) + 1).values
        trimmed.append({m: delta * (delta.abs() >= cut) for m, delta in part.items()})
    merged = {}
    for module in parts[0]:
        values = torch.stack([part[module] for part in trimmed])
        agree = values * values.sum(0).sign() > 0
        merged[module] = (values * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged


def best(target: Deltas, rank: int) -> Deltas:
    """Return the best approximation of each delta at `rank`, by truncated SVD."""
    approximations = {}
    for module, delta in target.items():
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        approximations[module] = u[:, :rank] * s[:rank] @ v[:rank]
    return approximations


def norm(deltas: Iterable[Tensor]) -> float:
    """Return the Frobenius norm over all modules."""
    return math.sqrt(sum(float(delta.square().sum()) for delta in deltas))


def cell(merged: Deltas | str, target: Deltas) -> str:
    """Return the relative distance, and the ratio of norms if it exceeds 1.05."""
    if isinstance(merged, str):
        return "refused"
    size = norm(target.values())
    distance = norm(merged[m] - delta for m, delta in target.items()) / size
    times = norm(merged.values()) / size
    shown = f"{distance:.1e}" if distance < 1e-3 else f"{distance:.1%}"
    return f"{shown} (norm x{times:.2f})" if times > 1.05 else shown


def sum_row(case: Case, root: Path) -> list[str]:
    """Return distances to the weighted sum."""
    peft = Peft(case)
    target = weighted_sum([peft.deltas("0"), peft.deltas("1")], WEIGHTS)
    columns: list[Deltas | str] = [
        ours(case, root, "sum", WEIGHTS),
        peft.merged("cat", WEIGHTS),
        peft.merged("linear", WEIGHTS),
        best(target, RANK),
        ours(case, root, "svd", WEIGHTS, rank=RANK),
        peft.merged("svd", WEIGHTS, svd_rank=RANK),
    ]
    return [case.name, *(cell(merged, target) for merged in columns)]


def ties_row(case: Case, root: Path) -> list[str]:
    """Return distances to TIES."""
    peft = Peft(case)
    target = dense_ties([peft.deltas("0"), peft.deltas("1")], DENSITY)
    equal = (1.0, 1.0)
    columns: list[Deltas | str] = [
        best(target, RANK),
        ours(case, root, "ties", equal, rank=RANK, density=DENSITY),
        peft.merged("ties_svd", equal, svd_rank=RANK, density=DENSITY),
        peft.merged("ties", equal, density=DENSITY),
    ]
    return [case.name, *(cell(merged, target) for merged in columns)]


def main() -> None:
    """Print both tables."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cases = [*zoo_cases(), *synthetic_cases(root)]
        show(table(("", ""), describe()))
        show(f"\nDistance to {WEIGHTS[0]} * first + {WEIGHTS[1]} * second; svd at rank {RANK}\n")
        header: tuple[str, ...]
        header = ("adapters", "sum", "PEFT cat", "PEFT linear", "best", "svd", "PEFT svd")
        show(table(header, [sum_row(case, root) for case in cases]))
        show(f"\nDistance to TIES on the deltas, density {DENSITY}; all at rank {RANK}\n")
        header = ("adapters", "best", "ties", "PEFT ties_svd", "PEFT ties")
        show(table(header, [ties_row(case, root) for case in cases]))


if __name__ == "__main__":
    main()
