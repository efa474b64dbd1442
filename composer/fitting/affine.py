"""Formulas whose weights are unknown: `chat + a*(polite - rude)` with the free name `a`.

The weights of the models are affine functions of the free names, `w = constant + slopes @ theta`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from composer.errors import CompositionSchemaError, FormulaSyntaxError, quoted
from composer.formula import names, parse

Floats = npt.NDArray[np.float64]

MAX_FREE = 32
"""Maximum number of free names; no example set of a request determines as many."""

_FIELD = "formula"


@dataclass(frozen=True, slots=True)
class AffineFormula:
    """Models, free names, and how the ones' weights depend on the others' values."""

    models: tuple[str, ...]  # [K]
    free: tuple[str, ...]  # [P]
    constant: Floats  # [K]
    slopes: Floats  # [K, P]

    @staticmethod
    def parse(text: str, known: Collection[str]) -> AffineFormula:
        """Parse a formula; its names that are not `known` models are free.

        Raises:
            FormulaSyntaxError: it is no formula, or a free name stands where a model must.
            CompositionSchemaError: it has no free name, more than `MAX_FREE`, no model, or is not
                linear in a free name.
        """
        try:
            free = tuple(name for name in names(text) if name not in known)
            zero = dict.fromkeys(free, 0.0)
            models = tuple(dict.fromkeys(name for name, _ in parse(text, zero, known)))
        except FormulaSyntaxError as error:
            error.param = _FIELD
            raise
        if not free:
            raise CompositionSchemaError(
                f"the formula {quoted(text)} has no free name: every name in it is a model. Write "
                "e.g. 'base + a*polite', where a is free.",
                param=_FIELD,
            )
        if len(free) > MAX_FREE:
            raise CompositionSchemaError(
                f"the formula has {len(free)} free names; find at most {MAX_FREE} at once.",
                param=_FIELD,
            )
        if not models:
            raise CompositionSchemaError(f"the formula {quoted(text)} names no model", param=_FIELD)

        def weights(values: Mapping[str, float]) -> Floats:
            total = dict.fromkeys(models, 0.0)
            for name, weight in parse(text, {**zero, **values}):
                total[name] += weight
            return np.array(list(total.values()))

        constant = weights({})
        slopes = np.stack([weights({name: 1.0}) - constant for name in free], axis=1)
        formula = AffineFormula(models, free, constant, slopes)
        # Two other points tell a product of free names, or a square, from a linear formula.
        for scale in (2.0, -0.5):
            point = {name: scale * (n + 1) for n, name in enumerate(free)}
            if not np.allclose(weights(point), formula.weights(list(point.values()))):
                raise CompositionSchemaError(
                    f"the formula {quoted(text)} multiplies or divides free names by each other. "
                    "Give each product a name of its own.",
                    param=_FIELD,
                )
        return formula

    def check_names(self, field: str, given: Iterable[str]) -> None:
        """Check that all names in a field of a request are free.

        Raises:
            CompositionSchemaError: a name is a model, or does not stand in the formula.
        """
        for name in given:
            if name not in self.free:
                what = "a model" if name in self.models else "not a free name of the formula"
                raise CompositionSchemaError(
                    f"{quoted(name)} is {what}; the free names are {', '.join(self.free)}. Give "
                    "no value to another name.",
                    param=f"{field}.{name}",
                )

    def derivatives(self, gradient: Floats, hessian: Floats) -> tuple[Floats, Floats]:
        """Return `[P]` and `[P, P]`, derivatives by the free names, of what has the derivatives
        `gradient` `[K]` and `hessian` `[K, K]` by the weights."""
        return self.slopes.T @ gradient, self.slopes.T @ hessian @ self.slopes

    def smallest_weights(self, lower: Floats, upper: Floats) -> Floats:
        """Return the smallest weight of each model, `[K]`, for free names within bounds, `[P]`."""
        result: Floats = self.constant + np.minimum(self.slopes * lower, self.slopes * upper).sum(1)
        return result

    def weights(self, theta: Sequence[float] | Floats) -> Floats:
        """Return the weights of the models, `[K]`, for values of the free names, `[P]`."""
        result: Floats = self.constant + self.slopes @ np.asarray(theta, dtype=np.float64)
        return result
