"""Which compositions one adapter can replace, and the weights of the merge that makes it.

To first order the logits of an adapter are the base's plus something linear in its change of the
weights, `l_k = l_0 + J d_k`. A sum `w_0 l_0 + sum_k w_k l_k` of total weight `s` is then
`s * (l_0 + J sum_k (w_k / s) d_k)`: the adapter with the change `sum_k (w_k / s) d_k`, with the
weight `s`. Sums of changes are those of Ilharco et al. 2022, "Editing Models with Task Arithmetic",
arXiv:2212.04089.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from clients.cli.local_work import REFUSED, failure

BASE = "base"
LEAST_TOTAL = 1e-3
"""Sums of weights below this count as zero."""

DISTIL = "Train an adapter on its answers instead: 'composer distil' writes them."


@dataclass(frozen=True, slots=True)
class Bakeable:
    """The merge that stands for a sum: the weights of the adapters, and that of the result."""

    formula: str
    adapters: Mapping[str, float]
    total: float

    def merge(self, rank: int | None) -> dict[str, Any]:
        """Return the merge, exact or at a smaller rank, as `PUT /v1/adapters` takes it."""
        members = [{"adapter": name, "weight": weight} for name, weight in self.adapters.items()]
        how: dict[str, Any] = {"method": "sum"} if rank is None else {"method": "svd", "rank": rank}
        return {**how, "adapters": members}


def bakeable(plan: Mapping[str, Any], adapters: Collection[str]) -> Bakeable:
    """Return the merge that stands for a composition.

    Args:
        plan: its normal form, as the server shows it.
        adapters: those of the base model that the server has.

    Raises:
        TyperException: one adapter cannot stand for it.
    """
    formula = plan["formula"]

    def refusal(reason: str, remedy: str = DISTIL) -> Exception:
        return failure(REFUSED, f"'{formula}' cannot be baked into an adapter: {reason}. {remedy}")

    if "mixture" in plan:
        raise refusal("it is a mixture of probabilities, and an adapter is not")
    for found in plan["filters"]:
        raise refusal(f"it has the filter {found['kind']}, and an adapter filters no tokens")
    if plan.get("log_softmax"):
        raise refusal(
            "it has log_softmax", "Leave that out: without filters the probabilities are the same."
        )
    weights: dict[str, float] = {}
    for member in plan["members"]:
        model, weight = member["model"], member["weight"]
        if member["prompt"] != "request":
            raise refusal(f"its member '{model}' reads a prompt of its own")
        if model != BASE and model not in adapters:
            raise refusal(f"its member '{model}' is not an adapter of the base model")
        weights[model] = weight
    total = round(sum(weights.values()), 9)
    of_adapters = {model: weight for model, weight in weights.items() if model != BASE}
    if not of_adapters:
        raise refusal("it has no adapter", "Its model is the base; change its temperature instead.")
    if total < LEAST_TOTAL:
        short = 1 - sum(of_adapters.values())
        raise refusal(
            f"its weights sum to {total:.4g}, so that nothing of the base's logits would remain "
            "under the changes of its adapters, and an adapter changes a whole base",
            f"With the weight {short:.4g} for the base they would sum to 1.",
        )
    merged = {model: weight / total for model, weight in of_adapters.items()}
    return Bakeable(formula, merged, total)
