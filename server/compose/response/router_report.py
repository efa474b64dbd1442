"""What an answer tells of its router: the weights that its experts had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.engine.port import Engine, Weighed

_DIGITS = 6
"""Of weights in answers; float32 has no more."""


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """How to tell it, once the answer is complete.

    names: the models of the rows, or of the candidates of a switch; None is a row that only leads.
    prior: weights by name, which are the whole story where they never change.
    ticket: under which the engine knows what happened; None where it was not asked to route.
    missing: experts that the request asked for and that are gone.
    """

    names: tuple[str | None, ...]
    prior: Mapping[str, float]
    ticket: str | None = None
    explain: bool = False
    missing: tuple[str, ...] = ()

    async def told(self, engine: Engine, length: int | None) -> dict[str, Any]:
        """The field `routing`: the mean weights over all answers, and each one's if there are more
        than one. `length`: tokens of the answer, where it is one."""
        answers = await engine.weighed(self.ticket, length) if self.ticket is not None else ()
        described = [self._answer(one) for one in answers]
        told: dict[str, Any] = {"weights": _rounded(self.prior)}
        if len(described) == 1:
            told = described[0]
        elif described:
            told = {"weights": self._mean(answers), "answers": described}
        return told | ({"missing": list(self.missing)} if self.missing else {})

    def _answer(self, one: Weighed) -> dict[str, Any]:
        told: dict[str, Any] = {"weights": self._named(one.weights)}
        if self.explain:
            told["tokens"] = [
                self.names[token] if isinstance(token, int) else self._named(token)
                for token in one.tokens
            ]
        return told

    def _mean(self, answers: Sequence[Weighed]) -> dict[str, float]:
        columns = zip(*(one.weights for one in answers), strict=True)
        return self._named([sum(column) / len(answers) for column in columns])

    def _named(self, weights: Sequence[float]) -> dict[str, float]:
        """By name; a name that occurs several times in a sequence gets them all."""
        found: dict[str, float] = {}
        for name, weight in zip(self.names, weights, strict=True):
            if name is not None:
                found[name] = found.get(name, 0.0) + weight
        return _rounded(found)


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(weight, _DIGITS) for name, weight in weights.items()}
