"""The field `routing` of a response: the weights that the experts of a mixture had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.engine.port import Engine, RoutingTrace

_DIGITS = 6
"""Decimal digits of weights in responses; float32 has no more."""


@dataclass(frozen=True, slots=True)
class RouterReport:
    """Reports the routing of one request, once its response is complete.

    engine: has the traces.
    models: the model of each row, or of each candidate of a switch; None marks an added
        zero-weight leader row.
    prior: weights by model; they are final if the weights never change.
    report_id: the id under which the engine keeps the traces; None if it routes nothing.
    explain: whether to report every token.
    missing: requested experts that are not served any more.
    familiarity: of the prompt to the examples of the experts that were to run, if the base could
        have taken their place.
    none_below: it does so below this familiarity to every expert; None if it never does.
    """

    engine: Engine
    models: tuple[str | None, ...]
    prior: Mapping[str, float]
    report_id: str | None = None
    explain: bool = False
    missing: tuple[str, ...] = ()
    familiarity: Mapping[str, float] = field(default_factory=dict)
    none_below: float | None = None

    async def routing_field(self, answer_tokens: int | None) -> dict[str, Any]:
        """Return the mean weights of all answers, and those of each if there are several.

        `answer_tokens`: length of the answer if there is one, otherwise None.
        """
        traces: Sequence[RoutingTrace] = ()
        if self.report_id is not None:
            traces = await self.engine.routing_traces(self.report_id, answer_tokens)
        answers = [self._answer(trace) for trace in traces]
        report: dict[str, Any] = {"weights": _rounded(self.prior)}
        if len(answers) == 1:
            report = answers[0]
        elif answers:
            report = {"weights": self._mean(traces), "answers": answers}
        if self.familiarity:
            report |= {"familiarity": _rounded(self.familiarity), "none_below": self.none_below}
        return report | ({"missing": list(self.missing)} if self.missing else {})

    def _answer(self, trace: RoutingTrace) -> dict[str, Any]:
        answer: dict[str, Any] = {"weights": self._by_model(trace.weights)}
        if self.explain:
            answer["tokens"] = [
                self.models[token] if isinstance(token, int) else self._by_model(token)
                for token in trace.tokens
            ]
        return answer

    def _mean(self, traces: Sequence[RoutingTrace]) -> dict[str, float]:
        columns = zip(*(trace.weights for trace in traces), strict=True)
        return self._by_model([sum(column) / len(traces) for column in columns])

    def _by_model(self, weights: Sequence[float]) -> dict[str, float]:
        """Return weights by model; a model that occurs several times gets their sum."""
        by_model: dict[str, float] = {}
        for model, weight in zip(self.models, weights, strict=True):
            if model is not None:
                by_model[model] = by_model.get(model, 0.0) + weight
        return _rounded(by_model)


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(weight, _DIGITS) for name, weight in weights.items()}
