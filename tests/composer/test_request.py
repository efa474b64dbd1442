"""The JSON field `composition`: what is read, and what every mistake is answered with."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    EmptyCompositionError,
    FormulaSyntaxError,
    NoRequestPromptError,
    TooManyMembersError,
    UnknownModelError,
    WeightError,
)
from composer.filters import Filter, FilterKind
from composer.plan import Limits, Member, Plan
from composer.prompts import MessagesPrompt, TextPrompt, TokensPrompt
from composer.recipes import RECIPES
from composer.request import parse_composition

KNOWN = ("base", "polite", "rude", "code-v2")
USER = {"role": "user", "content": "hi"}


def read(value: object, limits: Limits = Limits()) -> Plan:  # noqa: B008 (frozen)
    return parse_composition(value, known=KNOWN, limits=limits)


@pytest.mark.parametrize(
    "value",
    [
        "base + 0.5*(polite - rude)",
        {"formula": "base + 0.5*(polite - rude)"},
        {"formula": "base + 0.5*(polite - rude)", "filters": []},
        {"recipe": "proxy_tuning", "expert": "polite", "anti_expert": "rude", "alpha": 0.5},
        {
            "members": [
                {"model": "rude", "weight": -0.5},
                {"model": "base", "weight": 1},
                {"model": "polite", "weight": 0.5, "prompt": None, "messages": None},
            ]
        },
    ],
)
def test_one_composition_in_every_form(value: object) -> None:
    members = (Member("base"), Member("polite"), Member("rude"))
    assert read(value) == Plan(members, (1.0, 0.5, -0.5))


def test_members_with_prompts_of_their_own() -> None:
    plan = read(
        {
            "members": [
                {"model": "base", "weight": 2},
                {"model": "base", "weight": -0.25, "prompt": "be rude"},
                {"model": "base", "weight": -0.25, "messages": [USER]},
                {"model": "rude", "weight": -0.5, "prompt_token_ids": [0, 5]},
            ]
        }
    )
    assert plan.members == (
        Member("base"),
        Member("base", TextPrompt("be rude")),
        Member("base", MessagesPrompt((("user", "hi"),))),
        Member("rude", TokensPrompt((0, 5))),
    )
    assert plan.weights == (2.0, -0.25, -0.25, -0.5)


def test_one_character_is_enough_text() -> None:
    plan = read(
        {
            "members": [
                {"model": "base", "weight": 1},
                {"model": "base", "weight": 1, "messages": [{"role": "u", "content": ""}]},
                {"model": "base", "weight": 1, "prompt": "x"},
            ]
        }
    )
    assert plan.rows == 3
    assert read(guidance("x")).members[1] == Member("base", TextPrompt("x"))


def test_filters() -> None:
    filters = [
        {"kind": "top_p", "model": "polite", "value": 0.9},
        {"kind": "plausibility", "model": "base", "value": 0.1},
    ]
    expected = (Filter(FilterKind.PLAUSIBILITY, 0, 0.1), Filter(FilterKind.TOP_P, 1, 0.9))
    assert read({"formula": "base + polite", "filters": filters}).filters == expected
    members = [{"model": "base", "weight": 1}, {"model": "polite", "weight": 1}]
    assert read({"members": members, "filters": filters}).filters == expected


def members(**fields: Any) -> dict[str, Any]:
    """One member that has these fields, too."""
    return {"members": [{"model": "base", "weight": 1} | fields]}


def filtered(**fields: Any) -> dict[str, Any]:
    """A filter that has these fields, too."""
    return {
        "formula": "base",
        "filters": [{"kind": "top_p", "model": "base", "value": 0.5} | fields],
    }


def proxy(**fields: Any) -> dict[str, Any]:
    return {"recipe": "proxy_tuning", "expert": "polite"} | fields


def guidance(negative_prompt: object) -> dict[str, Any]:
    return {"recipe": "classifier_free_guidance", "negative_prompt": negative_prompt}


def fine_tuning(**fields: Any) -> dict[str, Any]:
    return {"recipe": "emulated_fine_tuning"} | fields


FORMS = 'give a formula such as "base + 0.8*(polite - base)", or an object with one of'
ONE_OF = "give exactly one of 'formula', 'recipe' and 'members', e.g. {\"formula\": \"base +"

# (value, param after "composition", what follows the param in the message)
SCHEMA_ERRORS: list[tuple[object, str, str]] = [
    # not a composition
    (None, "", f" is null; {FORMS}"),
    (True, "", f" is true; {FORMS}"),
    (0.5, "", f" is 0.5; {FORMS}"),
    (["base"], "", f" is a list of 1; {FORMS}"),
    ({}, "", f" is an object with no fields; {ONE_OF}"),
    ({"model": "base"}, "", f" is an object with 'model'; {ONE_OF}"),
    ({"formula": "base", "members": []}, "", f" is an object with 'formula', 'members'; {ONE_OF}"),
    # formulas
    ({"formula": 3}, ".formula", " is 3; it should be a valid string."),
    (
        {"formula": "base", "filter": []},
        ".filter",
        " is not a field; did you mean 'filters'? The fields are: formula, filters, log_softmax.",
    ),
    # filters
    ({"formula": "base", "filters": {}}, ".filters", " is an object with no fields; it should be"),
    (filtered(kind="topp"), ".filters[0].kind", " is 'topp'; it should be 'top_p', 'plausibi"),
    (filtered(value=True), ".filters[0].value", " is true; it should be a valid number."),
    (filtered(member=0), ".filters[0].member", " is not a field; remove it. The fields are: k"),
    ({"formula": "base", "a\nb": 1}, r"['a\nb']", " is not a field; remove it. The fields are"),
    ({"formula": "base", "x" * 41: 1}, f"['{'x' * 41}']", " is not a field; remove it. The fields"),
    # members
    ({"members": []}, ".members", " is a list of 0; it should have at least 1 item."),
    ({"members": "base"}, ".members", " is 'base'; it should be a valid list."),
    ({"members": ["base"]}, ".members[0]", " is 'base'; it should be"),
    ({"members": [{"model": "base"}]}, ".members[0].weight", " is missing; give it a value."),
    (
        {"members": [{"model": "base", "weight": 1}, {"weight": 1}]},
        ".members[1].model",
        " is missing; give it a value.",
    ),
    (members(weight=True), ".members[0].weight", " is true; it should be a valid number."),
    (members(weight="1"), ".members[0].weight", " is '1'; it should be a valid number."),
    (members(weight=None), ".members[0].weight", " is null; it should be a valid number."),
    (members(weight=math.nan), ".members[0].weight", " is NaN; it should be a finite number."),
    (members(weight=math.inf), ".members[0].weight", " is Infinity; it should be a finite number."),
    (
        members(weight=10**5000),
        ".members[0].weight",
        " is an integer of more than 20 digits; it should be a valid number.",
    ),
    (members(model=""), ".members[0].model", " is ''; it should have at least 1 character."),
    (members(model=["a"]), ".members[0].model", " is a list of 1; it should be a valid string."),
    (
        members(wieght=1),
        ".members[0].wieght",
        " is not a field; did you mean 'weight'? The fields are: model, weight, prompt, messages, "
        "prompt_token_ids.",
    ),
    (
        members(prompt="x", messages=[USER]),
        ".members[0]",
        ": 'base' is given prompt and messages; it reads one prompt, so leave one of them.",
    ),
    (
        members(prompt="x", prompt_token_ids=[1]),
        ".members[0]",
        ": 'base' is given prompt and prompt_token_ids; it reads one prompt",
    ),
    (members(prompt=""), ".members[0].prompt", " is ''; it should have at least 1 character."),
    (members(messages=[]), ".members[0].messages", " is a list of 0; it should have at least 1 i"),
    (
        members(messages=[{"role": "user"}]),
        ".members[0].messages[0].content",
        " is missing; give it a value.",
    ),
    (
        members(messages=[USER | {"name": "Ann"}]),
        ".members[0].messages[0].name",
        " is not a field; remove it. The fields are: role, content.",
    ),
    (
        members(messages=[USER | {"role": ""}]),
        ".members[0].messages[0].role",
        " is ''; it should have at least 1 character.",
    ),
    (members(prompt_token_ids=[]), ".members[0].prompt_token_ids", " is a list of 0; it should"),
    (members(prompt_token_ids=[1, True]), ".members[0].prompt_token_ids[1]", " is true; it should"),
    (members(prompt_token_ids=[1.0]), ".members[0].prompt_token_ids[0]", " is 1.0; it should be a"),
    (
        members(prompt_token_ids=[-1]),
        ".members[0].prompt_token_ids[0]",
        " is -1; it should be greater than or equal to 0.",
    ),
    # recipes
    (
        {"recipe": "proxy_tunning"},
        ".recipe",
        " is 'proxy_tunning'; did you mean 'proxy_tuning'? Use one of: proxy_tuning, emulated_fin",
    ),
    ({"recipe": "xyz"}, ".recipe", " is 'xyz'. Use one of: proxy_tuning, emulated_fine_tuning, d"),
    ({"recipe": ["proxy_tuning"]}, ".recipe", " is a list of 1. Use one of: proxy_tuning, "),
    ({"recipe": "proxy_tuning"}, ".expert", " is missing; give it a value."),
    (
        {"recipe": "proxy_tuning", "exprt": "polite"},
        ".exprt",
        " is not a field; did you mean 'expert'? The fields are: recipe, expert, anti_expert, base",
    ),
    (proxy(alpha=False), ".alpha", " is false; it should be a valid number."),
    (proxy(alpha="1"), ".alpha", " is '1'; it should be a valid number."),
    (proxy(alpha=math.inf), ".alpha", " is Infinity; it should be a finite number."),
    (proxy(filters=[]), ".filters", " is not a field; remove it. The fields are: recipe, expert"),
    (
        {"recipe": "dexperts", "expert": "polite", "anti_expert": "rude", "top_p": 0},
        ".top_p",
        " is 0; it should be greater than 0.",
    ),
    (
        {"recipe": "dexperts", "expert": "polite", "anti_expert": "rude", "top_p": 1.1},
        ".top_p",
        " is 1.1; it should be less than or equal to 1.",
    ),
    (
        {"recipe": "contrastive", "amateur": "rude", "beta": -1},
        ".beta",
        " is -1; it should be greater than or equal to 0.",
    ),
    (
        {"recipe": "contrastive", "amateur": "rude", "plausibility": 1.5},
        ".plausibility",
        " is 1.5; it should be less than or equal to 1.",
    ),
    (
        {"recipe": "classifier_free_guidance", "guidance_scale": 0},
        ".guidance_scale",
        " is 0; it should be greater than 0.",
    ),
    (guidance(3), ".negative_prompt", " is 3; it should be a valid string or be a valid list."),
    (guidance([{"role": "user"}]), ".negative_prompt[0].content", " is missing; give it a value."),
    (
        guidance(""),
        ".negative_prompt",
        " is ''; it should have at least 1 character or be a valid l",
    ),
    (guidance([]), ".negative_prompt", " is a list of 0; it should be a valid string or have at"),
    ({"recipe": "context_aware", "context": ""}, ".context", " is ''; it should have at least 1 c"),
    (
        {"recipe": "context_aware", "context": "c", "alpha": -0.5},
        ".alpha",
        " is -0.5; it should be greater than or equal to 0.",
    ),
    (fine_tuning(), "", ": there is nothing to add; give 'pairs', or 'tuned' for a single pair."),
    (
        fine_tuning(tuned="polite", pairs=[{"tuned": "rude"}]),
        "",
        ": 'tuned' (polite) is short for a single pair and excludes 'pairs'; move it",
    ),
    (
        fine_tuning(weight=2, pairs=[{"tuned": "rude"}]),
        "",
        ": 'weight' (2) belongs to 'tuned'; give every one of 'pairs' its own weight.",
    ),
    (fine_tuning(pairs=[]), ".pairs", " is a list of 0; it should have at least 1 item."),
    (fine_tuning(pairs=[{"tuned": 1}]), ".pairs[0].tuned", " is 1; it should be a valid string."),
]


@pytest.mark.parametrize(("value", "param", "message"), SCHEMA_ERRORS)
def test_schema_error(value: object, param: str, message: str) -> None:
    with pytest.raises(CompositionSchemaError) as caught:
        read(value)
    assert caught.value.param == f"composition{param}"
    assert caught.value.message.startswith(f"composition{param}{message}")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("base +", FormulaSyntaxError, "expected a model, a number or '(', found the end"),
        ({"formula": "2"}, FormulaSyntaxError, "the formula is the constant 2"),
        ("base + polit", UnknownModelError, "model 'polit' is not served here; did you mean 'pol"),
        ("base + 0*gone", UnknownModelError, "model 'gone' is not served here. Use one of: 'base"),
        ("code-v2", UnknownModelError, "model 'code' is not served here; did you mean 'code-v2'"),
        (proxy(expert="gone"), UnknownModelError, "model 'gone' is not served here"),
        (members(model="gone"), UnknownModelError, "model 'gone' is not served here"),
        (filtered(model="gone"), UnknownModelError, "model 'gone' is not served here"),
        (filtered(model="rude"), CompositionSchemaError, "the top_p filter names 'rude', which"),
        (filtered(value=2), CompositionSchemaError, "the top_p filter on 'base' has the value 2"),
        ("101*base", WeightError, "the weight of base is 101; give a number between -100 and 100"),
        ("1e308*10*base", WeightError, "the weight of base is inf; give a finite number"),
        (proxy(alpha=1000), WeightError, "the weight of polite is 1000; give a number between"),
        ("base + polite + rude", TooManyMembersError, "the composition has 3 different members"),
        ("base - base", EmptyCompositionError, "nothing is left of base: every weight is 0"),
        (members(prompt="x"), NoRequestPromptError, "no member reads the request's prompt, only"),
    ],
)
def test_error(value: object, error: type[CompositionError], message: str) -> None:
    with pytest.raises(error) as caught:
        read(value, Limits(max_members=2))
    assert type(caught.value) is error
    assert caught.value.param == "composition"
    assert caught.value.message.startswith(message)


def test_errors_name_the_place_that_the_caller_names() -> None:
    with pytest.raises(UnknownModelError) as unknown:
        parse_composition("gone", known=KNOWN, param="model")
    assert unknown.value.param == "model"
    with pytest.raises(CompositionSchemaError) as schema:
        parse_composition(proxy(alpha=True), known=KNOWN, param="body")
    assert schema.value.param == "body.alpha"


NAMES = st.sampled_from([*KNOWN, "base + polite", "gone", ""])
KEYS = st.sampled_from(
    [
        *("formula", "filters", "kind", "model", "value"),
        *("members", "weight", "prompt", "messages", "role", "content"),
        *("recipe", "expert", "alpha", "pairs", "tuned", "negative_prompt"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | NAMES
    | st.sampled_from([recipe.name for recipe in RECIPES])
)
JSON = st.recursive(
    SCALARS,
    lambda children: st.lists(children) | st.dictionaries(KEYS | st.text(), children),
    max_leaves=20,
)


def test_log_softmax_of_a_formula_and_of_members() -> None:
    formula = read({"formula": "base + polite", "log_softmax": True})
    members = [{"model": "base", "weight": 1}, {"model": "polite", "weight": 1}]
    assert formula == read({"members": members, "log_softmax": True})
    assert formula.log_softmax
    assert not read("base + polite").log_softmax


@given(JSON)
@example({"members": [{"model": "\ud800", "weight": 1}]})  # JSON's way of a lone surrogate
@example("'\ud800'")
@example({"formula": "base", "\ud800": 1})
@example({"\ud800": 1})
@example({"recipe": "proxy_tuning", "expert": "polite", "alpha": 1e308})
def test_any_json_is_a_plan_or_a_composition_error(value: object) -> None:
    try:
        plan = read(value)
    except CompositionError as error:
        assert error.param is not None  # noqa: PT017 (the other outcome is fine too)
        error.message.encode()
    else:
        json.dumps(plan.to_dict(), allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from(KNOWN), st.floats(-9, 9)), min_size=1, max_size=6))
def test_formula_and_members_agree(terms: list[tuple[str, float]]) -> None:
    formula = " + ".join(f"{weight!r}*'{name}'" for name, weight in terms)
    value = {"members": [{"model": name, "weight": weight} for name, weight in terms]}
    try:
        plan = read(value)
    except EmptyCompositionError:
        with pytest.raises(EmptyCompositionError):
            read(formula)
    else:
        assert read(formula) == plan
        assert read(plan.formula()) == plan
