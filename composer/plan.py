"""Plans: compositions in normal form.

However they are written, equal compositions give equal plans: equal members are merged, members
without weight are removed, and the order is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from composer.errors import (
    CompositionSchemaError,
    EmptyCompositionError,
    NoRequestPromptError,
    TooManyMembersError,
    WeightError,
    quoted,
)
from composer.fields import BASE
from composer.filters import MAX_TOP_K, Filter, FilterKind, NamedFilter
from composer.formula import format_number, format_sum, quote_name
from composer.mixtures.specs import MixturePlan, WeightedMixtureSpec, normalized
from composer.prompts import (
    REQUEST,
    OwnPrompt,
    Prompt,
    RequestPrompt,
    describe,
    hidden,
    label,
    sort_key,
)

NEGLIGIBLE = 1e-9
"""Members with weights of smaller magnitude are removed: rounding, not intent."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stream of logits. `model` is "base" or the name of an adapter."""

    model: str
    prompt: Prompt = REQUEST

    def __str__(self) -> str:
        """Return the member as formulas show it, an own prompt in brackets, which do not parse."""
        prompt = label(self.prompt)
        return quote_name(self.model) + (f"[{prompt}]" if prompt else "")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one composition."""

    max_members: int = 8
    max_weight: float = 100.0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Plan:
    """A composition in normal form, made by `normalize`. `weights[k]` belongs to `members[k]`.

    With a mixture, the weights are the prior of the experts and sum to one. A prior that depends on
    the prompt is uniform until `composer.mixtures.route.route` has resolved it. With `log_softmax`,
    the members' log-probabilities are added instead of their logits. `cancelled` are members that
    were asked for with weights that sum to 0, as `base` in `base + (polite - base)`.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    filters: tuple[Filter, ...] = ()
    mixture: MixturePlan | None = None
    log_softmax: bool = False
    cancelled: tuple[Member, ...] = field(default=(), compare=False)

    @property
    def leader(self) -> int:
        """Index of the member whose row carries the request's sampling parameters and output.

        Members that read the request's prompt come first in the normal form.
        """
        return 0

    @property
    def rows(self) -> int:
        """Number of rows that the plan takes in the engine's batch."""
        return _rows(len(self.members), self.mixture)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The models of the members. If they take turns on one row: in the order of the request,
        possibly with repetitions."""
        if self.mixture is None or isinstance(self.mixture.router, WeightedMixtureSpec):
            return tuple(member.model for member in self.members)
        return self.mixture.router.experts

    @property
    def is_plain(self) -> bool:
        """Whether an ordinary request to the single model computes the same."""
        return (
            len(self.members) == 1
            and self.weights == (1.0,)
            and not self.filters
            and isinstance(self.members[0].prompt, RequestPrompt)
        )

    def hidden(self) -> Plan:
        """Return the same plan with private prompts."""

        def hide(members: tuple[Member, ...]) -> tuple[Member, ...]:
            return tuple(replace(m, prompt=hidden(m.prompt)) for m in members)

        return replace(self, members=hide(self.members), cancelled=hide(self.cancelled))

    def formula(self) -> str:
        """Return the canonical text, e.g. `base + 0.8*polite - 0.8*rude`, `mixture(chat, velan)`,
        or `switch(chat, velan)` for members that take turns on one row.

        A sum parses to the same plan if every member reads the request's prompt, and there are
        neither filters nor `log_softmax`. Other prompts are shown in brackets, which do not parse.
        """
        if self.mixture is not None:
            kind = "switch" if self.mixture.switches else "mixture"
            return f"{kind}({', '.join(map(quote_name, self.candidates))})"
        return format_sum(zip(map(str, self.members), self.weights, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the description in responses, JSON-able; `private` if prompts are left out."""
        description: dict[str, Any] = {
            "formula": self.formula(),
            "members": [
                {"model": member.model, "weight": weight, "prompt": describe(member.prompt)}
                for member, weight in zip(self.members, self.weights, strict=True)
            ],
            "filters": [
                {"kind": f.kind.value, "model": self.members[f.member].model, "value": f.value}
                for f in self.filters
            ],
        }
        if self.log_softmax:
            description["log_softmax"] = True
        if self.cancelled:
            description["cancelled"] = [str(member) for member in self.cancelled]
        if any(isinstance(m.prompt, OwnPrompt) and m.prompt.private for m in self.members):
            description["private"] = True
        return description | ({"mixture": self.mixture.to_dict()} if self.mixture else {})


def normalize(
    terms: Iterable[tuple[Member, float]],
    filters: Iterable[NamedFilter] = (),
    mixture: MixturePlan | None = None,
    *,
    log_softmax: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Plan:
    """Bring a composition into normal form.

    Members are ordered: those that read the request's prompt first, then by model with the base
    first, then by prompt. A member that a filter judges by stays even if its weight is zero,
    because the filter needs its logits. Of several filters of one kind on one member only the
    strictest remains, which implies the others. One member with weight 1 is that model alone, and
    never normalized by `log_softmax`.

    With a mixture, the weights of the terms are the prior of its experts, and the limit on members
    applies to those that run: of many experts the best `top_k`.

    Raises:
        CompositionError: a weight or filter value is out of range, there are too many members, none
            remains, or none reads the request's prompt.
    """
    terms = tuple(terms)
    weights = _merged(terms, limits)
    strictest = _strictest(filters, weights)
    judges = {Member(model) for _, model in strictest}
    significant = {member for member, weight in weights.items() if abs(weight) >= NEGLIGIBLE}
    members = sorted(significant | judges, key=_order)
    if not significant:
        raise _empty(weights)
    if len(members) == 1:  # there are no other members' terms
        strictest = {k: v for k, v in strictest.items() if k[0] is not FilterKind.SOFT_TOP_K}
    running = len(members) if mixture and mixture.switches else _rows(len(members), mixture)
    if running > limits.max_members:
        raise TooManyMembersError(
            f"the composition has {running} different members; at most {limits.max_members} "
            "are allowed. Remove the ones with the smallest weights."
        )
    if mixture is not None and any(kind is FilterKind.SOFT_TOP_K for kind, _ in strictest):
        raise CompositionSchemaError(
            "a mixture adds no terms for a soft_top_k filter to centre. Leave the filter out."
        )
    if not isinstance(members[0].prompt, RequestPrompt):
        raise NoRequestPromptError(
            f"no member reads the request's prompt, only {_listing(members)}. "
            "Add a member without a prompt of its own and with a weight other than 0."
        )
    kept = {member: weights[member] if member in significant else 0.0 for member in members}
    return Plan(
        members=tuple(members),
        weights=tuple((normalized(kept) if mixture else kept).values()),
        filters=tuple(
            sorted(
                (
                    Filter(kind, members.index(Member(model)), value)
                    for (kind, model), value in strictest.items()
                ),
                key=lambda f: (f.member, f.kind),
            )
        ),
        mixture=mixture,
        log_softmax=log_softmax and list(kept.values()) != [1.0],
        cancelled=_cancelled(terms, members),
    )


def _cancelled(
    terms: Iterable[tuple[Member, float]], members: Collection[Member]
) -> tuple[Member, ...]:
    """Return the members with terms of some weight that are not among the remaining `members`."""
    asked = {member for member, weight in terms if abs(weight) >= NEGLIGIBLE}
    return tuple(sorted(asked - set(members), key=_order))


def _rows(members: int, mixture: MixturePlan | None) -> int:
    if mixture is None:
        return members
    return 1 if mixture.switches else min(members, mixture.top_k or members)


def _merged(terms: Iterable[tuple[Member, float]], limits: Limits) -> dict[Member, float]:
    parts: dict[Member, list[float]] = {}
    for member, weight in terms:
        _check_weight(member, weight, limits)
        parts.setdefault(member, []).append(weight)
    # fsum rounds once, at the end, so the order of terms does not matter.
    merged = {member: math.fsum(weights) for member, weights in parts.items()}
    for member, weight in merged.items():
        _check_weight(member, weight, limits)
    return merged


def _check_weight(member: Member, weight: float, limits: Limits) -> None:
    if not math.isfinite(weight):
        raise WeightError(f"the weight of {member} is {weight}; give a finite number.")
    if abs(weight) > limits.max_weight:
        raise WeightError(
            f"the weight of {member} is {format_number(weight)}; give a number between "
            f"{format_number(-limits.max_weight)} and {format_number(limits.max_weight)}."
        )


def _strictest(
    filters: Iterable[NamedFilter], members: Collection[Member]
) -> dict[tuple[FilterKind, str], float]:
    """Return the strictest value by kind and model, without filters that keep every token."""
    values: dict[tuple[FilterKind, str], float] = {}
    for f in filters:
        _check_filter(f, members)
        key = f.kind, f.model
        if f.kind is FilterKind.TOP_P and f.value < 1:
            values[key] = min(f.value, values.get(key, 1.0))
        if f.kind is FilterKind.PLAUSIBILITY and f.value > 0:
            values[key] = max(f.value, values.get(key, 0.0))
        if f.kind in (FilterKind.TOP_K, FilterKind.SOFT_TOP_K):
            values[key] = min(f.value, values.get(key, math.inf))
    soft = [model for kind, model in values if kind is FilterKind.SOFT_TOP_K]
    if len(soft) > 1:
        raise CompositionSchemaError(
            f"the soft_top_k filters name {' and '.join(map(quoted, soft))}; only one member can "
            "keep its logits outside its likeliest tokens. Leave one of the filters."
        )
    return values


def _check_filter(f: NamedFilter, members: Collection[Member]) -> None:
    match f.kind:
        case FilterKind.TOP_P:
            in_range = 0 < f.value <= 1
            wanted = "number greater than 0 and at most 1; 1 keeps every token"
        case FilterKind.PLAUSIBILITY:
            in_range = 0 <= f.value <= 1
            wanted = "number between 0 and 1; 0 keeps every token"
        case FilterKind.TOP_K | FilterKind.SOFT_TOP_K:
            in_range = 1 <= f.value <= MAX_TOP_K and f.value == int(f.value)
            wanted = f"whole number from 1 to {MAX_TOP_K}"
    if not in_range:
        raise CompositionSchemaError(
            f"the {f.kind} filter on {quoted(f.model)} has the value {format_number(f.value)}; "
            f"give a {wanted}."
        )
    if Member(f.model) not in members:
        raise CompositionSchemaError(
            f"the {f.kind} filter names {quoted(f.model)}, which is not a member that reads the "
            f"request's prompt. Name one of {_listing(members)}, or add it with weight 0."
        )


def _order(member: Member) -> tuple[bool, bool, str, tuple[int, str]]:
    reads_other_prompt = not isinstance(member.prompt, RequestPrompt)
    return reads_other_prompt, member.model != BASE, member.model, sort_key(member.prompt)


def _empty(members: Collection[Member]) -> EmptyCompositionError:
    if not members:
        return EmptyCompositionError("the composition has no members. Add at least one.")
    return EmptyCompositionError(
        f"nothing is left of {_listing(members)}: every weight is 0 after merging equal members. "
        "Change a weight so that one member stays."
    )


def _listing(members: Collection[Member], limit: int = 8) -> str:
    names = [str(member) for member in sorted(members, key=_order)]
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
