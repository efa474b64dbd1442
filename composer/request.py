"""The JSON field `composition`: its forms, its schema, and how it becomes a plan.

Four forms of the same sum:

    "base + 0.8*(polite - base)"
    {"formula": "base + 0.8*(polite - base)"}
    {"recipe": "proxy_tuning", "expert": "polite", "alpha": 0.8}
    {"members": [{"model": "base", "weight": 0.2}, {"model": "polite", "weight": 0.8}]}

Mixtures of probabilities are a recipe:

    {"recipe": "mixture", "experts": ["polite", "rude"], "router": "posterior"}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, model_validator

from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    UnknownModelError,
    nearest_name,
    quoted,
)
from composer.fields import (
    MAX_FILTERS,
    MAX_MEMBERS,
    MAX_MESSAGES,
    Fields,
    Flag,
    Message,
    ModelName,
    Number,
    TokenId,
    pairs,
)
from composer.filters import FilterKind, NamedFilter
from composer.formula import parse
from composer.mixtures.routers import ROUTERS
from composer.mixtures.specs import MixturePlan
from composer.plan import DEFAULT_LIMITS, Limits, Member, Plan, normalize
from composer.prompts import REQUEST, MessagesPrompt, Prompt, TextPrompt, TokensPrompt
from composer.recipes import RECIPES, Filters, Recipe, Terms
from composer.validation import shown, validate

_EXAMPLE = '"base + 0.8*(polite - base)"'


class FilterFields(Fields):
    """Restricts the choice, or the terms of the other members, to tokens that one member finds
    likely enough."""

    kind: FilterKind
    """`top_p`: the member's nucleus; `plausibility`: tokens likely relative to its likeliest one;
    `top_k`: its likeliest tokens; `soft_top_k`: the same, but other tokens keep this member's
    logits, and the terms of the other members are centred over the likeliest."""

    model: ModelName
    """Model of the member, which must read the request's prompt; its weight may be 0."""

    value: Number
    """Mass of the nucleus, or minimum ratio to the likeliest token, from 0 to 1; for `top_k` and
    `soft_top_k` the number of tokens."""


class MemberFields(Fields):
    """A model and its weight. It reads the request's prompt unless it has another."""

    model: ModelName
    """The base or an adapter."""

    weight: Number
    """Factor of its logits; may be negative."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    """A text to read instead of the request's prompt, without a chat template."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    """Chat messages to read instead of the request's."""

    prompt_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    """Token ids to read instead of the request's prompt."""

    @model_validator(mode="after")
    def _at_most_one_prompt(self) -> MemberFields:
        prompts = [
            name
            for name in ("prompt", "messages", "prompt_token_ids")
            if getattr(self, name) is not None
        ]
        if len(prompts) > 1:
            raise ValueError(
                f"{quoted(self.model)} is given {' and '.join(prompts)}; it reads one prompt, "
                "so leave one of them"
            )
        return self

    def member(self) -> Member:
        """Return the member without its weight."""
        prompt: Prompt = REQUEST
        if self.prompt is not None:
            prompt = TextPrompt(self.prompt)
        elif self.messages is not None:
            prompt = MessagesPrompt(pairs(self.messages))
        elif self.prompt_token_ids is not None:
            prompt = TokensPrompt(tuple(self.prompt_token_ids))
        return Member(self.model, prompt)


class FormulaComposition(Fields):
    """A formula, with filters."""

    formula: str
    """A linear expression over models, e.g. `base + 0.8*(polite - base)`."""

    filters: list[FilterFields] = Field(default_factory=list, max_length=MAX_FILTERS)
    """Which tokens may be chosen; all filters apply."""

    log_softmax: Flag = False
    """Whether log-probabilities are added instead of logits: a product of the distributions. It
    matters only to `repetition_penalty`, which depends on the sign."""


class MembersComposition(Fields):
    """Explicit members, which may read prompts of their own."""

    members: Annotated[list[MemberFields], Field(min_length=1, max_length=MAX_MEMBERS)]
    """The terms of the sum. Equal members are merged, members with weight 0 are removed."""

    filters: list[FilterFields] = Field(default_factory=list, max_length=MAX_FILTERS)
    """Which tokens may be chosen; all filters apply."""

    log_softmax: Flag = False
    """Whether log-probabilities are added instead of logits: a product of the distributions. It
    matters only to `repetition_penalty`, which depends on the sign."""


def composition_schemas() -> dict[str, Any]:
    """Return the schemas of OpenAPI's `components` that describe the field, by name.

    `Composition` describes the field itself, with an example for every recipe and every router;
    `Composition.Contrastive` and the like describe the objects in it. They are derived from
    `RECIPES` and `ROUTERS`.
    """
    recipes: Any = Union[tuple(recipe.fields for recipe in RECIPES)]  # noqa: UP007
    by_name = Annotated[recipes, Field(discriminator="recipe")]
    field: Any = Union[str, FormulaComposition, by_name, MembersComposition]  # noqa: UP007
    template = "#/components/schemas/Composition.{model}"
    schema = TypeAdapter(field).json_schema(ref_template=template)
    objects = {f"Composition.{name}": value for name, value in schema.pop("$defs").items()}
    schema["description"] = (
        "How models are combined: a formula, or an object with one of `formula`, `recipe` and "
        "`members`."
    )
    return {"Composition": {**schema, "examples": composition_examples()}, **objects}


def composition_examples() -> list[Any]:
    """Return values of the field: a formula, members, and one object per recipe and per router.

    The models are those of the zoo. The examples of context-aware decoding and of gates need a
    request that contains the context, and a server with a gate.
    """
    routers = [{"kind": router.name, **router.example} for router in ROUTERS]
    return [
        "chat + 0.8*(polite - rude)",
        {"formula": "chat + 0.8*(polite - rude)"},
        {"members": [{"model": "chat", "weight": 1.5}, {"model": "base", "weight": -0.5}]},
        *({"recipe": recipe.name, **recipe.example} for recipe in RECIPES),
        *(
            {"recipe": "mixture", "experts": ["arithmetic", "chat"], "router": router}
            for router in routers
        ),
    ]


def parse_composition(
    value: object,
    *,
    known: Collection[str],
    limits: Limits = DEFAULT_LIMITS,
    param: str = "composition",
) -> Plan:
    """Parse the value of the field into a plan.

    Args:
        value: the decoded JSON value.
        known: the names that members may have; contains "base".
        limits: bounds of one composition.
        param: path of `value` in the request, for error messages.

    Raises:
        CompositionError: the value is not a valid composition. No other exception is raised,
            whatever the value.
    """
    try:
        terms, filters, mixture, log_softmax = _read(value, param)
        for name in [member.model for member, _ in terms] + [f.model for f in filters]:
            if name not in known:
                raise UnknownModelError(name, known)
        return normalize(terms, filters, mixture, log_softmax=log_softmax, limits=limits)
    except CompositionError as error:
        error.param = error.param or param
        raise


PROMPT_FIELDS = frozenset({"prompt", "messages", "prompt_token_ids", "negative_prompt", "context"})
"""The fields of members and recipes that contain a prompt in place of the request's."""


def holds_prompts(composition: object) -> bool:
    """Return whether the value of the field contains prompts of its own."""
    if not isinstance(composition, Mapping):
        return False
    members = composition.get("members")
    objects = [composition, *(members if isinstance(members, list) else ())]
    return any(
        fields.get(name) is not None
        for fields in objects
        if isinstance(fields, Mapping)
        for name in PROMPT_FIELDS
    )


def _read(value: object, param: str) -> tuple[Terms, Filters, MixturePlan | None, bool]:
    """Return the arguments of `normalize`."""
    if isinstance(value, str):
        return _formula_terms(value), (), None, False
    if not isinstance(value, Mapping):
        raise CompositionSchemaError(
            f"{param} is {shown(value)}; give a formula such as {_EXAMPLE}, or an object with "
            "one of 'formula', 'recipe' and 'members'."
        )
    match [key for key in ("formula", "recipe", "members") if key in value]:
        case ["formula"]:
            by_formula = validate(FormulaComposition, value, param)
            terms, filters = _formula_terms(by_formula.formula), _named(by_formula.filters)
            return terms, filters, None, by_formula.log_softmax
        case ["recipe"]:
            recipe = _recipe(value["recipe"], param)
            fields = validate(recipe.fields, value, param)
            mixture = recipe.mixture(fields) if recipe.mixture else None
            return *recipe.build(fields), mixture, recipe.log_softmax
        case ["members"]:
            by_members = validate(MembersComposition, value, param)
            terms = tuple((m.member(), m.weight) for m in by_members.members)
            return terms, _named(by_members.filters), None, by_members.log_softmax
        case _:
            raise CompositionSchemaError(
                f"{param} is {shown(value)}; give exactly one of 'formula', 'recipe' and "
                f"'members', e.g. {{\"formula\": {_EXAMPLE}}}."
            )


def _formula_terms(text: str) -> Terms:
    return tuple((Member(name), weight) for name, weight in parse(text))


def _named(filters: Sequence[FilterFields]) -> Filters:
    return tuple(NamedFilter(f.kind, f.model, f.value) for f in filters)


def _recipe(name: object, param: str) -> Recipe[Any]:
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    names = [recipe.name for recipe in RECIPES]
    nearest = nearest_name(name, names) if isinstance(name, str) else None
    raise CompositionSchemaError(
        f"{param}.recipe is {shown(name)}"
        + (f"; did you mean {quoted(nearest)}? " if nearest else ". ")
        + f"Use one of: {', '.join(names)}.",
        param=f"{param}.recipe",
    )
