"""What an adapter changes in the weights of its base, module by module.

PEFT merges a copy of each layer in float64, so that rounding does not hide the rank of the change;
layers of plain LoRA keep their factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from adapters.weight_space.convert.peft_adapter import PREFIX, PeftAdapter, plain_factors
from adapters.weight_space.factors import Factors


@dataclass(frozen=True, slots=True)
class WeightChange:
    """The change of one tensor of the base.

    module: the layer whose weight changes; the tensor's whole name if it is not the weight of a
        linear layer or an embedding, so that LoRA cannot hold the change.
    embedding: whether the layer is an embedding.
    factors: of the change, if the adapter stores them.
    delta: otherwise the change, `[out, in]` f32; of an embedding transposed, `[H, V]`.
    """

    module: str
    embedding: bool = False
    factors: Factors | None = None
    delta: Tensor | None = None

    @property
    def fits(self) -> bool:
        """Whether LoRA can hold it."""
        return self.factors is not None or self.delta is not None


def changes_of(adapter: PeftAdapter) -> Iterator[WeightChange]:
    """Yield every change of a tensor, in the order of the model's modules.

    Raises:
        NotImplementedError, ValueError: PEFT cannot merge a layer.
    """
    parameters = dict(adapter.model.named_parameters(remove_duplicate=False))
    for name, before in adapter.before.items():
        if not torch.equal(before, parameters[name].detach()):
            yield WeightChange(name.removeprefix(PREFIX))
    for name, unit in units_of(adapter.model):
        factors = plain_factors(unit)
        if factors is None:
            yield from _merged(name, unit)
        else:
            embedding = isinstance(unit.get_base_layer(), nn.Embedding)
            yield WeightChange(name, embedding, _less(factors, adapter.initial.get(name)))


def units_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers and wrappers that PEFT put around modules of the base, outermost only."""
    outer = "\0"
    for name, module in model.named_modules():
        kinds = BaseTunerLayer | ModulesToSaveWrapper | TrainableTokensWrapper
        if isinstance(module, kinds) and not name.startswith(outer):
            outer = f"{name}."
            yield name.removeprefix(PREFIX), module


def _less(factors: Factors, initial: Factors | None) -> Factors:
    """Return factors of the difference of two products."""
    if initial is None:
        return factors
    return Factors(torch.cat([factors.a, initial.a]), torch.cat([factors.b, -initial.b], dim=1))


def _merged(name: str, unit: Any) -> Iterator[WeightChange]:
    """Yield the changes of the tensors of a module, by comparing it before and after a merge."""
    if isinstance(unit, ModulesToSaveWrapper):
        before, after = unit.original_module, unit.modules_to_save["default"]
    else:
        layer = unit.token_adapter if isinstance(unit, TrainableTokensWrapper) else unit
        copy = deepcopy(layer).double()
        copy.merge()
        before, after = layer.get_base_layer(), copy.get_base_layer()
    tensors = dict(after.named_parameters())
    for part, old in before.named_parameters():
        delta = (tensors[part].detach().double() - old.detach().double()).float()
        if not delta.any():
            continue
        holder = before.get_submodule(part.rpartition(".")[0])
        full = ".".join(filter(None, (name, part)))
        if not (part.endswith("weight") and isinstance(holder, nn.Linear | nn.Embedding)):
            yield WeightChange(full)
        elif isinstance(holder, nn.Embedding):
            yield WeightChange(full.removesuffix(".weight"), True, delta=delta.T)
        else:
            yield WeightChange(full.removesuffix(".weight"), delta=delta)
