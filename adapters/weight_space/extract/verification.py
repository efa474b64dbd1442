"""Compare a base model with its fine-tune: which changes can an adapter hold?"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from adapters.errors import MergeError
from adapters.inspection.problems import listing
from adapters.weight_space.distance import difference
from adapters.weight_space.extract.extract_report import OtherChange
from adapters.weight_space.model_weights import ModelWeights, WeightInfo

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called after each tensor with the number done, the total, and the tensor's name."""

# transformers' Conv1D stores weights as [in, out]; a checkpoint does not show that.
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_EMBEDDING = re.compile(r".*embed.*|wte|wpe")


@dataclass(frozen=True, slots=True)
class ChangedTensors:
    """The result of a comparison.

    linear: modules with a weight matrix in both models, changed or not, sorted.
    other: the changed ones among the `compared` other tensors, and tensors of another size.
    """

    linear: tuple[str, ...]
    other: tuple[OtherChange, ...]
    compared: int

    def refusal(self) -> str:
        """Return why an adapter cannot hold the whole fine-tune."""
        return (
            "The fine-tune changed tensors that an adapter cannot hold: "
            f"{listing([str(change) for change in self.other])}. Set ignore_other_changes "
            "(--ignore-other-changes) to leave them out, and measure what that costs."
        )


def compare(
    base: ModelWeights, tuned: ModelWeights, progress: Progress | None = None
) -> ChangedTensors:
    """Compare all tensors that are not linear weights, a block at a time.

    Raises:
        MergeError: the models have different tensors, or an unsupported architecture.
    """
    _check_kind(base)
    _check_names(base, tuned)
    other: list[OtherChange] = []
    linear: list[str] = []
    wrong: list[str] = []
    rest: list[str] = []
    for name, info in base.tensors.items():
        shapes = info.shape, tuned.tensors[name].shape
        if shapes[0] == shapes[1]:
            (linear if _is_linear(name, info) else rest).append(name)
        elif _is_vocabulary(name, *shapes):
            other.append(OtherChange(name, "vocabulary", None, *shapes))
        else:
            wrong.append(f"{name} ({list(shapes[0])} and {list(shapes[1])})")
    if wrong:
        raise MergeError(
            f"The base and the tuned model have tensors of different shapes: {listing(wrong)}. "
            "Give the model that the fine-tuning started from."
        )
    for done, name in enumerate(rest, 1):
        distance = difference(base, tuned, name)
        if distance.changed:
            shape = base.tensors[name].shape
            other.append(OtherChange(name, _kind(name), distance.relative, shape, shape))
        if progress is not None:
            progress(done, len(rest) + len(linear), name)
    modules = tuple(name.removesuffix(".weight") for name in linear)
    return ChangedTensors(modules, tuple(sorted(other, key=lambda c: c.name)), len(rest))


def _check_kind(base: ModelWeights) -> None:
    kind: Any = base.config().get("model_type")
    if kind in _TRANSPOSED:
        raise MergeError(
            f"'{base.folder}' is a {kind} model, whose weights are stored transposed; vLLM runs no "
            "adapters on it. Use a model with plain linear layers."
        )


def _check_names(base: ModelWeights, tuned: ModelWeights) -> None:
    problems = []
    if missing := base.tensors.keys() - tuned.tensors.keys():
        problems.append(f"only the base has {listing(sorted(missing))}")
    if added := tuned.tensors.keys() - base.tensors.keys():
        problems.append(f"only the tuned model has {listing(sorted(added))}")
    if problems:
        raise MergeError(
            f"'{base.folder}' and '{tuned.folder}' have different architectures: "
            f"{'; '.join(problems)}. Give the model that the fine-tuning started from, saved by "
            "the same program."
        )


def _is_linear(name: str, info: WeightInfo) -> bool:
    module, _, kind = name.rpartition(".")
    return (
        kind == "weight"
        and len(info.shape) == 2
        and info.dtype.is_floating_point
        and not _EMBEDDING.fullmatch(module.rpartition(".")[2])
    )


def _is_vocabulary(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Return whether a table of tokens gained or lost rows."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    table = bool(_EMBEDDING.fullmatch(module)) or module in ("lm_head", "output", "embed_out")
    return table and len(old) == len(new) == 2 and old[1] == new[1]


def _kind(name: str) -> str:
    module = name.rpartition(".")[0].rpartition(".")[2]
    if name.endswith(".bias"):
        return "bias"
    if _EMBEDDING.fullmatch(module):
        return "embedding"
    return "norm" if "norm" in module or module.startswith("ln_") else "other"
