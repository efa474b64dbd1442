"""The adapters to merge, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adapters.errors import MergeError
from adapters.weight_space.factors import AdapterReader, Factors


@dataclass(frozen=True, slots=True)
class Input:
    """One adapter and its weight, under the name that messages use."""

    name: str
    weight: float
    reader: AdapterReader


class Inputs:
    """Adapters of one base model. A module that only some of them have is zero in the others."""

    def __init__(self, members: Sequence[Input]) -> None:
        """Raises `MergeError` if two adapters change a module of one name but another shape."""
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
        """Of each input, in the order given."""
        return tuple(member.weight for member in self.members)

    def shape(self, module: str) -> tuple[int, int]:
        """(out, in)"""
        return self._shapes[module]

    def size(self, index: int) -> int:
        """How many numbers the deltas of one input have, over all its modules."""
        reader = self.members[index].reader
        return sum(height * width for height, width in map(reader.shape, reader.modules))

    def factors(self, module: str) -> dict[int, Factors]:
        """Index of the input -> its factors f32, of the inputs that change the module."""
        return {
            index: member.reader.read(module)
            for index, member in enumerate(self.members)
            if module in member.reader.modules
        }

    def base_models(self) -> tuple[str, ...]:
        """The different names that the adapters give their base model, in the order given."""
        names = [member.reader.base_model for member in self.members]
        return tuple(dict.fromkeys(name for name in names if name is not None))


def combination(inputs: Inputs, module: str, coefficients: Sequence[float]) -> Factors:
    """The sum of coefficient k times delta k, exactly: factors side by side, ranks add up.

    Rank 0 if no input with a coefficient other than 0 changes the module.
    """
    height, width = inputs.shape(module)
    rows, columns = [torch.zeros(0, width)], [torch.zeros(height, 0)]
    for index, factors in inputs.factors(module).items():
        if coefficients[index] != 0:
            rows.append(factors.a)
            columns.append(factors.b * coefficients[index])
    return Factors(torch.cat(rows, 0), torch.cat(columns, 1))


def inner(first: Factors, second: Factors) -> float:
    """The Frobenius inner product of two deltas, in float64: r1 x r2 numbers are held.

    <B1 A1, B2 A2> = trace(A1^T B1^T B2 A2), the sum of (B1^T B2) * (A1 A2^T) by element.
    """
    left = first.b.double().T @ second.b.double()
    right = first.a.double() @ second.a.double().T
    return float((left * right).sum())
