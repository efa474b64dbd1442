"""The plan that the engine receives for one composed request.

Names are bound to adapters, and prompts are token ids. Nothing else crosses from the front end into
the engine. The plan travels as one JSON string in `SamplingParams.extra_args` (over HTTP:
`vllm_xargs`), whose values may only be strings, numbers and lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from composer.filters import MAX_TOP_K, Filter, FilterKind

ENGINE_ARG = "composition"
"""Key of the JSON string in `SamplingParams.extra_args`."""

ROW_ARG = "composition_row"
"""Key of a `composer.vllm.schedule.gang.RowTag` in the `extra_args` that the scheduler hands to the
worker."""

RESERVED_ARGS = frozenset({ENGINE_ARG, ROW_ARG})
"""The keys of `extra_args` that the engine reads. Requests of clients must not contain them."""

MAX_WEIGHT = 1e30
"""Maximum magnitude of a weight: sums of logits stay finite in float32."""


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter generation in the engine's terms.

    `name` contains the digest of the content, because vLLM keys its prefix cache by this name;
    `id` is positive and unique per generation.
    """

    name: str
    id: int
    path: str

    def __post_init__(self) -> None:
        if not 0 < self.id < 2**63:  # vLLM stores an int64, and 0 means no adapter
            raise ValueError(f"the id of an adapter is {self.id}; it must be from 1 to 2**63 - 1")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the batch: one member of the composition.

    `prompt_token_ids` is None if the member reads the request's own prompt. `model` names the
    auxiliary model that computes the row and to which `adapter` belongs; None is the base.
    """

    weight: float
    adapter: LoadedAdapter | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    model: str | None = None

    @property
    def may_lead(self) -> bool:
        """Whether the row may be row 0: on the base model, reading the request's own prompt."""
        return self.model is None and self.prompt_token_ids is None


@dataclass(frozen=True, slots=True)
class MixtureParameters:
    """How the rows are mixed: `p = sum_k pi_k softmax(l_k)`; the weight of a row is its prior.

    Requests, kernels and oracle all use this class. `pi` is a vote of rules, as in Mixture of
    Routers (Zhang et al. 2025), with shares that sum to one: the prior itself (`fixed`); the
    posterior `P`, how well each row explains the text so far (DEMix, Gururangan et al. 2021,
    section 4; c-BTM, 2023); and the confidence `C`.

        P_k ~ prior_k exp(s_k),   s_k <- forgetting * s_k + log p_k(x) after every token x,
              then P <- (1 - K floor) P + floor
        C_k ~ prior_k exp(-H(p_k) / temperature),   H the entropy in nats

    With `prompt`, the prompt's tokens from the second on count towards `s` as those of the answer
    do; otherwise `s` starts from zero.
    """

    RULES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "posterior": ("forgetting", "floor", "prompt"),
        "confidence": ("temperature",),
    }
    """The rules that weigh the experts anew before each token, and the parameters of each. The
    share of a rule is the field of its name."""

    fixed: float = 1.0
    posterior: float = 0.0
    confidence: float = 0.0
    forgetting: float = 1.0
    floor: float = 0.0
    prompt: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        shares = tuple(getattr(self, rule) for rule in ("fixed", *self.RULES))
        if not (min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6):
            raise ValueError(f"the shares {shares} of a mixture's rules do not sum to one")
        if not (0 < self.forgetting <= 1 and 0 <= self.floor < 1 and self.temperature > 0):
            raise ValueError(f"a parameter of {self} is out of range")

    @property
    def is_routed(self) -> bool:
        """Whether the weights change from token to token."""
        return self.fixed < 1

    @property
    def reads_prompt(self) -> bool:
        """Whether the likelihood of the prompt counts."""
        return self.posterior > 0 and self.prompt


@dataclass(frozen=True, slots=True)
class Switch:
    """One row whose adapter is chosen for each token, on one KV cache, as in MeteoRA.

    With a gate: `candidates[start]` computes the prompt except its last token. Every later token is
    computed by the candidate whose class has the largest logit in the gate, applied to the last
    hidden state of the previous token. The current candidate stays unless another's logit exceeds
    its own by more than `stickiness`.

    With `triggers`, token ids: `candidates[start]` computes the prompt, and each trigger in the
    answer hands over to the next candidate, which already computes the trigger itself. The last
    candidate stays.
    """

    candidates: tuple[LoadedAdapter | None, ...]  # None: the base without an adapter
    start: int = 0
    gate: str | None = None  # path of the gate file
    classes: tuple[int, ...] = ()  # row of the gate's matrix for each candidate
    stickiness: float = 0.0
    triggers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.candidates):
            raise ValueError(f"candidate {self.start} of {len(self.candidates)} cannot start")
        if (self.gate is None) == (not self.triggers):
            raise ValueError("a switch needs either a gate or triggers")
        if self.gate is not None and len(self.classes) != len(self.candidates):
            raise ValueError("a gate needs a class for every candidate")
        if any(row < 0 for row in self.classes):
            raise ValueError(f"the classes {self.classes} of a gate are not rows of its matrix")


@dataclass(frozen=True, slots=True)
class Scoring:
    """What to compute of the last `tokens` tokens of a prompt, with which all rows' prompts end.

    Every step reads the logits of all rows anyway, so what is computed from them here costs no
    further pass of a model. `report_id` retrieves it:

    * `members`: the log-probability of every token under each row alone.
    * `weights`: further weights of all rows; the log-probability of every token under each of them.
    * `moments`: at each of these, the gradient and the Hessian of the sum of log-probabilities by
      the weights. With `p` the composed distribution before token `y`, and `l_k` the logits of row
      k, they are the sums of `l_k[y] - E_p[l_k]` and of `-Cov_p(l_k, l_j)`.
    * `divergences`: of each of these, how far it is from the plan's own weights, in front of every
      token: KL(p || p_w) in nats, with `p` and `p_w` the distributions composed with the weights of
      the rows and with the further ones. Both have the plan's filters.
    """

    tokens: int
    report_id: str
    members: bool = False
    weights: tuple[tuple[float, ...], ...] = ()
    moments: bool = False
    divergences: bool = False

    def check(self, rows: int) -> None:
        """Raise `ValueError` if this is nothing that a plan of so many rows can compute."""
        if self.tokens < 1:
            raise ValueError(f"the plan scores {self.tokens} tokens; one is the least")
        for weights in self.weights:
            if len(weights) != rows:
                raise ValueError(f"{len(weights)} weights for {rows} rows")
            if not all(abs(weight) <= MAX_WEIGHT for weight in weights):
                raise ValueError(f"a weight of {weights} is not within ±{MAX_WEIGHT:g}")
        if self.divergences and not self.weights:
            raise ValueError("divergences are distances from further weights, and there are none")


@dataclass(frozen=True, slots=True)
class Explaining:
    """A request to explain every token of the answer (`composer.tensors.explain_kernel`).

    `report_id` retrieves the explanations, also while the answer grows. `base` is the row that the
    composition is compared with; None if there is none.
    """

    report_id: str
    base: int | None = None


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Rows in the order of the plan's members; row 0 is the leader.

    The leader runs on the base model and reads the request's prompt: it is the request that vLLM
    knows (`EnginePlan.led` finds or adds one). Filters refer to rows by index. With `mixture` the
    rows are mixed instead of summed; with `switch` there is one row. After the answer, `report_id`
    retrieves the weights that a router chose, with `explain` those of every token. With
    `log_softmax` the rows' log-probabilities are added instead of their logits.

    If the request asks for `prompt_logprobs`, they are those of the composition. `scoring` says of
    which tokens, and what else to compute of them; without it, they are all but the first. A switch
    computes these tokens as those of an answer, and an answer after them continues them.
    `explanation` asks what every row thought of the answer's tokens.
    """

    rows: tuple[Row, ...]
    filters: tuple[Filter, ...] = ()
    mixture: MixtureParameters | None = None
    switch: Switch | None = None
    report_id: str | None = None
    explain: bool = False
    log_softmax: bool = False
    scoring: Scoring | None = None
    explanation: Explaining | None = None

    def __post_init__(self) -> None:
        if self.explanation is not None:
            base = self.explanation.base
            if base is not None and not 0 <= base < len(self.rows):
                raise ValueError(f"the explanation compares with row {base} of {len(self.rows)}")
        if self.scoring is not None:
            self.scoring.check(len(self.rows))
            if self.scoring.weights and self.mixture is not None:
                raise ValueError("further weights are for sums, and the plan is a mixture")
            if self.switch is not None and (self.scoring.members or self.scoring.weights):
                raise ValueError("a switch computes one candidate at each token; score each alone")
        if self.switch is not None:
            if len(self.rows) != 1 or self.filters or self.mixture or self.log_softmax:
                raise ValueError("a switch has one row and nothing else")
            if self.switch.candidates[self.switch.start] != self.rows[0].adapter:
                raise ValueError("the row of a switch begins with another adapter than its start")
        if self.mixture is not None and any(not row.weight >= 0 for row in self.rows):
            raise ValueError("the prior of a row is negative")
        if self.mixture is not None and self.rows and not any(row.weight for row in self.rows):
            raise ValueError("the priors of all rows are zero; give one of them weight")
        if not self.rows:
            raise ValueError("an engine plan needs at least one row")
        if self.rows[0].prompt_token_ids is not None:
            raise ValueError("row 0, the leader, must read the request's own prompt")
        if self.rows[0].model is not None:
            raise ValueError(
                f"row 0, the leader, runs on {self.rows[0].model!r} instead of the base model; "
                "build the plan with EnginePlan.led"
            )
        for row in self.rows:
            if not math.isfinite(row.weight):
                raise ValueError(f"weight {row.weight} is not a finite number")
            if abs(row.weight) > MAX_WEIGHT:
                raise ValueError(f"weight {row.weight} is beyond ±{MAX_WEIGHT:g}")
            if row.prompt_token_ids is not None and not row.prompt_token_ids:
                raise ValueError("the prompt of a member is empty; give it at least one token")
        for f in self.filters:
            if not 0 <= f.member < len(self.rows):
                raise ValueError(f"filter {f.kind} names row {f.member} of {len(self.rows)}")
            if not 0 <= f.value <= MAX_TOP_K:
                raise ValueError(f"filter {f.kind} has the value {f.value}")
        if len({(f.kind, f.member) for f in self.filters}) < len(self.filters):
            raise ValueError("a row has two filters of one kind; keep the stricter one")
        soft = sum(f.kind is FilterKind.SOFT_TOP_K for f in self.filters)
        if soft > 1:
            raise ValueError(f"the plan has {soft} filters soft_top_k; one is the limit")
        if self.mixture is not None and (soft or self.log_softmax):
            raise ValueError("soft_top_k and log_softmax are for sums, and the plan is a mixture")

    @property
    def is_routed(self) -> bool:
        """Whether a router chooses weights or adapters while decoding, which responses report."""
        return self.switch is not None or (self.mixture is not None and self.mixture.is_routed)

    @staticmethod
    def led(
        rows: Sequence[Row],
        filters: Sequence[Filter] = (),
        mixture: MixtureParameters | None = None,
        report_id: str | None = None,
        explain: bool = False,
        log_softmax: bool = False,
        scoring: Scoring | None = None,
    ) -> EnginePlan:
        """Return a plan of these rows whose first row may lead.

        The first row that may lead moves to the front. If no row may, as in `small:chat - small`,
        add a row of the base model with weight 0: one more row to compute and to keep in the KV
        cache. `EnginePlan.order` returns the new order of the rows.
        """
        order = EnginePlan.order(rows)
        moved = tuple(Filter(f.kind, order.index(f.member), f.value) for f in filters)
        led = tuple(Row(0.0) if k is None else rows[k] for k in order)
        return EnginePlan(led, moved, mixture, None, report_id, explain, log_softmax, scoring)

    @staticmethod
    def order(rows: Sequence[Row]) -> list[int | None]:
        """Return the indices of the rows in the order of `led`; None marks an added zero-weight
        leader row."""
        order: list[int | None] = list(range(len(rows)))
        leader = next((k for k, row in enumerate(rows) if row.may_lead), None)
        order.insert(0, order.pop(leader) if leader is not None else None)
        return order

    def to_extra_args(self) -> dict[str, str]:
        """Return the plan as an entry of `SamplingParams.extra_args`."""
        return {ENGINE_ARG: json.dumps(self, default=_as_object, separators=(",", ":"))}

    @staticmethod
    def from_extra_args(extra_args: Mapping[str, Any] | None) -> EnginePlan | None:
        """Return the plan in `extra_args`, or None for a plain request.

        Raises:
            ValueError: the value does not have the form that `to_extra_args` writes.
        """
        text = (extra_args or {}).get(ENGINE_ARG)
        if text is None:
            return None
        try:
            return _plan(json.loads(text))
        except _MALFORMED as error:
            raise ValueError(f"'{ENGINE_ARG}' is not an engine plan: {str(error)[:200]}") from error


_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""Exceptions of `json.loads` on arbitrary text, and of reading the decoded value as a plan."""


def _plan(value: Any) -> EnginePlan:
    """Return the plan in a decoded value. Raise one of `_MALFORMED` if `to_extra_args` cannot have
    written it."""
    mixture, switch = value["mixture"], value["switch"]
    return EnginePlan(
        rows=tuple(map(_row, value["rows"])),
        filters=tuple(map(_filter, value["filters"])),
        mixture=MixtureParameters(**mixture) if mixture is not None else None,
        switch=_switch(switch) if switch is not None else None,
        report_id=_typed(value["report_id"], str, optional=True),
        explain=_typed(value["explain"], bool),
        log_softmax=_typed(value["log_softmax"], bool),
        scoring=_scoring(value["scoring"]),
        explanation=_explanation(value["explanation"]),
    )


def _row(value: Any) -> Row:
    prompt = value["prompt_token_ids"]
    return Row(
        weight=float(value["weight"]),
        adapter=_loaded(value["adapter"]),
        prompt_token_ids=_integers(prompt) if prompt is not None else None,
        model=_typed(value["model"], str, optional=True),
    )


def _filter(value: Any) -> Filter:
    kind = FilterKind(value["kind"])
    return Filter(kind, _typed(value["member"], int), float(value["value"]))


def _switch(value: Any) -> Switch:
    return Switch(
        candidates=tuple(map(_loaded, value["candidates"])),
        start=_typed(value["start"], int),
        gate=_typed(value["gate"], str, optional=True),
        classes=_integers(value["classes"]),
        stickiness=float(value["stickiness"]),
        triggers=_integers(value["triggers"]),
    )


def _scoring(value: Any) -> Scoring | None:
    if value is None:
        return None
    return Scoring(
        tokens=_typed(value["tokens"], int),
        report_id=_typed(value["report_id"], str),
        members=_typed(value["members"], bool),
        weights=tuple(tuple(map(float, weights)) for weights in value["weights"]),
        moments=_typed(value["moments"], bool),
        divergences=_typed(value["divergences"], bool),
    )


def _explanation(value: Any) -> Explaining | None:
    if value is None:
        return None
    base = _typed(value["base"], int, optional=True)
    return Explaining(_typed(value["report_id"], str), base)


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(_typed(value, int) for value in values)


def _typed(value: Any, kind: type, *, optional: bool = False) -> Any:
    """Return `value` if it is of this type; raise `TypeError` otherwise."""
    if type(value) is not kind and not (optional and value is None):
        raise TypeError(f"{str(value)[:80]!r} is not of type {kind.__name__}")
    return value


def _loaded(value: Any) -> LoadedAdapter | None:
    if value is None:
        return None
    name, path = _typed(value["name"], str), _typed(value["path"], str)
    return LoadedAdapter(name, _typed(value["id"], int), path)


def _as_object(part: Any) -> dict[str, Any]:
    """Return a dataclass of a plan as a JSON object."""
    return {field.name: getattr(part, field.name) for field in fields(part)}
