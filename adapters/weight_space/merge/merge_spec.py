"""What to merge and how: the JSON object that is stored with the result as its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.errors import MergeError
from adapters.weight_space.merge.method import Method, RankRule, is_number
from adapters.weight_space.merge.methods import METHODS
from composer.errors import nearest_name, quoted

_BY_NAME = {method.name: method for method in METHODS}
_FIELDS = ("method", "adapters", "rank")


@dataclass(frozen=True, slots=True)
class MergeMember:
    """An adapter by name, and its weight. The weight 0 is the same as leaving it out."""

    adapter: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """A merge, checked when it is made.

    `rank` is None for the exact result. `parameters` are those of the method; left out ones are
    filled in with their defaults, so what is stored says everything, the seed included.

    Raises:
        MergeError: a name is unknown or a value out of range; the message says what would do.
    """

    method: str
    adapters: tuple[MergeMember, ...]
    rank: int | None = None
    parameters: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in _BY_NAME:
            raise MergeError(
                f"there is no method {_shown(self.method)}; {_choices(self.method, _BY_NAME)}",
                param="method",
            )
        self._check_adapters()
        self._check_rank()
        object.__setattr__(self, "parameters", self._complete())

    @property
    def entry(self) -> Method:
        """The method's entry in `METHODS`."""
        return _BY_NAME[self.method]

    @classmethod
    def from_json(cls, value: object) -> MergeSpec:
        """The inverse of `to_json`; whatever has a default may be left out."""
        fields = _object(value, "the merge")
        method, members = fields.get("method"), fields.get("adapters")
        if not isinstance(method, str):
            raise MergeError(
                f"method is {_shown(method)}; {_choices('', _BY_NAME)}", param="method"
            )
        if not isinstance(members, list):
            raise MergeError(
                f"adapters is {_shown(members)}; give a list of objects like "
                '{"adapter": "polite", "weight": 1.0}',
                param="adapters",
            )
        return cls(
            method=method,
            adapters=tuple(_member(member, i) for i, member in enumerate(members)),
            rank=fields.get("rank"),  # type: ignore[arg-type]  # checked when it is made
            parameters={k: v for k, v in fields.items() if k not in _FIELDS},  # type: ignore[misc]
        )

    def to_json(self) -> dict[str, object]:
        """The JSON object, parameters beside the other fields."""
        return {
            "method": self.method,
            "adapters": [{"adapter": m.adapter, "weight": m.weight} for m in self.adapters],
            **self.parameters,
            "rank": self.rank,
        }

    def _check_adapters(self) -> None:
        for i, member in enumerate(self.adapters):
            weight: object = member.weight
            if not is_number(weight):
                raise MergeError(
                    f"the weight of {quoted(member.adapter)} is {_shown(weight)}; "
                    "give a finite number",
                    param=f"adapters[{i}].weight",
                )
            if not self.entry.weighted and member.weight not in (0, 1):
                raise MergeError(
                    f"'{self.method}' has no weights, but that of {quoted(member.adapter)} is "
                    f"{_shown(weight)}; leave it out",
                    param=f"adapters[{i}].weight",
                )
        left = sum(member.weight != 0 for member in self.adapters)
        least, most = self.entry.least, self.entry.most
        if left < least or (most is not None and left > most):
            count = f"exactly {least}" if least == most else f"at least {least}"
            raise MergeError(
                f"'{self.method}' merges {count} with a weight other than 0, not {left}; "
                "change the list of adapters",
                param="adapters",
            )

    def _check_rank(self) -> None:
        rank: object = self.rank
        rule = self.entry.rank
        if rank is None:
            refused = rule is RankRule.REQUIRED
        else:
            whole = is_number(rank, whole=True) and rank >= 1
            refused = rule is RankRule.NONE or not whole
        if refused:
            advice = ", or use 'svd'" if rule is RankRule.NONE else ""
            raise MergeError(
                f"the rank of '{self.method}' is {_shown(rank)}; give {rule.value}{advice}",
                param="rank",
            )

    def _complete(self) -> dict[str, float | None]:
        known = {parameter.name: parameter for parameter in self.entry.parameters}
        for name in self.parameters:
            if name not in known:
                raise MergeError(
                    f"'{self.method}' has no parameter {_shown(name)}; {_choices(name, known)}",
                    param=name,
                )
        complete = {}
        for name, parameter in known.items():
            if parameter.required and name not in self.parameters:
                raise MergeError(
                    f"'{self.method}' needs {name}: {parameter.meaning}; give {parameter.range}",
                    param=name,
                )
            complete[name] = parameter.check(self.parameters.get(name, parameter.default))
        return complete


def _member(value: object, index: int) -> MergeMember:
    place = f"adapters[{index}]"
    fields = _object(value, place)
    for name in fields:
        if name not in ("adapter", "weight"):
            raise MergeError(
                f"{place} has no field {_shown(name)}; give 'adapter' and 'weight'", param=place
            )
    adapter = fields.get("adapter")
    if not isinstance(adapter, str) or not adapter:
        raise MergeError(
            f"the adapter of {place} is {_shown(adapter)}; give its name", param=f"{place}.adapter"
        )
    return MergeMember(adapter, fields.get("weight", 1.0))  # type: ignore[arg-type]  # see above


def _object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise MergeError(f"{place} is {_shown(value)}; give a JSON object")
    return value


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else quoted(repr(value))[1:-1]


def _choices(name: str, known: Mapping[str, object]) -> str:
    near = nearest_name(name, known)
    listing = ", ".join(f"'{other}'" for other in known) or "none"
    return (f"did you mean '{near}'? " if near else "") + f"It is one of: {listing}"
