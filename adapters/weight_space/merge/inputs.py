"""The adapters to merge, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adapters.errors import MergeError
from adapters.weight_space.factors import AdapterReader, Factors


@dataclass(frozen=True, slots=True)
class Input:
    """One adapter with its weight; messages call it `name`."""

    name: str
    weight: float
    reader: AdapterReader


class Inputs:
    """Adapters of one base model. A module that an adapter lacks has a zero delta there."""

    def __init__(self, members: Sequence[Input]) -> None:
        """Raise `MergeError` if two adapters change a module in different shapes."""
        self.members = tuple(members)
        self._shapes: dict[str, tuple[int, int]] = {}
        owner: dict[str, str] = {}
        for member in self.members:
            for module in member.reader.modules:
                shape = member.reader.shape(module)
                first = owner.setdefault(module, member.name)
                if self._shapes.setdefault(module, shape) != shape:
                    raise MergeError(
                        f"adapter '{member.name}' changes {module} with the shape {list(shape)}, "
                        f"but '{first}' with {list(self._shapes[module])}; "
                        "merge adapters of one base model"
                    )
        self.modules: tuple[str, ...] = tuple(sorted(self._shapes))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weight of each input, in order."""
        return tuple(member.weight for member in self.members)

    def shape(self, module: str) -> tuple[int, int]:
        """Return (out, in)."""
        return self._shapes[module]

    def size(self, index: int) -> int:
        """Return the number of entries of all deltas of one input."""
        reader = self.members[index].reader
        return sum(height * width for height, width in map(reader.shape, reader.modules))

    def factors(self, module: str) -> dict[int, Factors]:
        """Return index -> factors f32 of the inputs that change the module."""
        return {
            index: member.reader.read(module)
            for index, member in enumerate(self.members)
            if module in member.reader.modules
        }

    def base_models(self) -> tuple[str, ...]:
        """Return the distinct names of the adapters' base models, in order."""
        names = [member.reader.base_model for member in self.members]
        return tuple(dict.fromkeys(name for name in names if name is not None))


def combination(inputs: Inputs, module: str, coefficients: Sequence[float]) -> Factors:
    """Return the exact sum of coefficient k times delta k: stacked factors, so ranks add up.

    The rank is 0 if no input with a nonzero coefficient changes the module.
    """
    height, width = inputs.shape(module)
    rows, columns = [torch.zeros(0, width)], [torch.zeros(height, 0)]
    for index, factors in inputs.factors(module).items():
        if coefficients[index] != 0:
            rows.append(factors.a)
            columns.append(factors.b * coefficients[index])
    return Factors(torch.cat(rows, 0), torch.cat(columns, 1))


def inner(first: Factors, second: Factors) -> float:
    """Return the Frobenius inner product of two deltas, in float64, with r1 x r2 intermediates.

    <B1 A1, B2 A2> = trace(A1^T B1^T B2 A2) = sum of the elements of (B1^T B2) * (A1 A2^T).
    """
    left = first.b.double().T @ second.b.double()
    right = first.a.double() @ second.a.double().T
    return float((left * right).sum())
