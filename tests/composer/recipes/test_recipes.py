"""Every recipe against the formula of its paper, computed from logits."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from composer.errors import CompositionSchemaError
from composer.filters import Filter, FilterKind
from composer.mixtures.routers import ROUTERS
from composer.mixtures.specs import FixedPrior, MixturePlan, WeightedMixtureSpec
from composer.plan import Member, Plan
from composer.prompts import LastToken, MessagesPrompt, RequestPrompt, TextPrompt, WithoutText
from composer.recipes import RECIPES, Recipe
from composer.request import composition_schemas, parse_composition

KNOWN = ("base", "big", "small", "small:chat", "polite", "rude")
KNOWN_IN_ZOO = ("base", "chat", "polite", "rude", "arithmetic")

# Logits [V] of every member that the cases read; four tokens are enough to tell weights apart.
REQUEST: dict[str, list[float]] = {
    "base": [0.3, -1.2, 2.0, 0.7],
    "big": [1.1, 0.4, -0.6, -2.0],
    "small": [-0.9, 0.8, 0.1, 1.7],
    "small:chat": [2.2, -0.3, 1.4, -1.1],
    "polite": [0.6, 1.9, -1.5, 0.2],
    "rude": [-1.7, 0.5, 0.9, 1.3],
}
OTHER_PROMPT = [1.6, -0.4, 0.25, -0.8]  # of the one member of a case that reads another prompt


def plan(recipe: str, **fields: Any) -> Plan:
    return parse_composition({"recipe": recipe, **fields}, known=KNOWN)


def composed(plan: Plan) -> list[float]:
    """`sum_k w_k l_k`, [V]."""
    rows = [
        REQUEST[m.model] if isinstance(m.prompt, RequestPrompt) else OTHER_PROMPT
        for m in plan.members
    ]
    return [
        math.fsum(w * row[v] for w, row in zip(plan.weights, rows, strict=True)) for v in range(4)
    ]


def by_token(*names: str) -> list[tuple[float, ...]]:
    return list(zip(*(REQUEST[name] for name in names), strict=True))


@pytest.mark.parametrize("alpha", [1.0, 0.4, -2.0])
def test_proxy_tuning(alpha: float) -> None:
    """Liu et al. 2024, equation 1; `next_token_logits` in modeling/dexperts.py."""
    result = plan("proxy_tuning", base="big", expert="small:chat", anti_expert="small", alpha=alpha)
    expected = [b + alpha * (e - a) for b, e, a in by_token("big", "small:chat", "small")]
    assert composed(result) == pytest.approx(expected)
    assert result.filters == ()


def test_proxy_tuning_of_the_base_itself_is_the_expert() -> None:
    assert plan("proxy_tuning", expert="polite").formula() == "polite"
    assert plan("proxy_tuning", expert="polite", alpha=0.75).formula() == "0.25*base + 0.75*polite"


@pytest.mark.parametrize(
    "fields",
    [
        {"recipe": "proxy_tuning", "expert": "small:chat"},
        {"recipe": "emulated_fine_tuning", "tuned": "small:chat"},
        {"recipe": "emulated_fine_tuning", "pairs": [{"tuned": "small:chat"}]},
    ],
)
def test_the_partner_of_an_adapter_is_its_own_model(fields: dict[str, Any]) -> None:
    """Not the base, which would cancel and leave small:chat alone."""
    result = plan(**fields)
    assert result.formula() == "base - small + small:chat"
    assert result.cancelled == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recipe": "proxy_tuning", "expert": "base"}, "'expert' is the base.*'anti_expert'"),
        ({"recipe": "emulated_fine_tuning", "tuned": "base"}, "'tuned' is the base.*'reference'"),
    ],
)
def test_the_base_has_no_untuned_partner(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CompositionSchemaError, match=said):
        plan(**fields)


def test_only_guidance_and_context_add_log_probabilities() -> None:
    """transformers penalizes guided log-probabilities; proxy-tuning's authors raw sums."""
    assert plan("classifier_free_guidance").to_dict()["log_softmax"] is True
    assert plan("context_aware", context="c").log_softmax
    assert {recipe.name for recipe in RECIPES if recipe.log_softmax} == {
        "classifier_free_guidance",
        "context_aware",
    }


def test_emulated_fine_tuning() -> None:
    """Mitchell et al. 2023, equation 4, with two pairs of different weight."""
    result = plan(
        "emulated_fine_tuning",
        reference="big",
        pairs=[
            {"tuned": "small:chat", "reference": "small", "weight": 0.7},
            {"tuned": "rude", "weight": -0.2},
        ],
    )
    expected = [
        g + 0.7 * (c - s) - 0.2 * (r - b)
        for g, c, s, r, b in by_token("big", "small:chat", "small", "rude", "base")
    ]
    assert composed(result) == pytest.approx(expected)
    assert result.filters == ()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"tuned": "polite"}, {"pairs": [{"tuned": "polite"}]}),
        (
            {"reference": "big", "tuned": "polite", "weight": 0.5},
            {
                "reference": "big",
                "pairs": [{"tuned": "polite", "reference": "base", "weight": 0.5}],
            },
        ),
        # Null is the same as absent: clients with typed models send it.
        ({"tuned": "polite", "pairs": None, "weight": None}, {"pairs": [{"tuned": "polite"}]}),
    ],
)
def test_emulated_fine_tuning_in_short(short: dict[str, Any], long: dict[str, Any]) -> None:
    assert plan("emulated_fine_tuning", **short) == plan("emulated_fine_tuning", **long)


@pytest.mark.parametrize("alpha", [2.0, 3.2, -1.5])
def test_dexperts(alpha: float) -> None:
    """Liu et al. 2021, equation 2; `ensemble_logits` in generation/dexperts_generation.py."""
    result = plan(
        "dexperts", base="big", expert="polite", anti_expert="rude", alpha=alpha, top_p=0.8
    )
    expected = [b + alpha * (e - a) for b, e, a in by_token("big", "polite", "rude")]
    assert composed(result) == pytest.approx(expected)
    assert result.filters == (Filter(FilterKind.TOP_P, result.members.index(Member("big")), 0.8),)


def test_dexperts_judges_by_the_base_even_where_its_weight_cancels() -> None:
    result = plan("dexperts", expert="polite", anti_expert="base", alpha=1)
    assert dict(zip(result.members, result.weights, strict=True)) == {
        Member("base"): 0.0,
        Member("polite"): 1.0,
    }
    assert result.filters == (Filter(FilterKind.TOP_P, 0, 0.9),)


def test_contrastive() -> None:
    """O'Brien and Lewis 2023, section 3: (1 + beta) s_e - beta s_a, among plausible tokens."""
    result = plan("contrastive", expert="big", amateur="small", beta=0.3, plausibility=0.2)
    expected = [1.3 * e - 0.3 * a for e, a in by_token("big", "small")]
    assert composed(result) == pytest.approx(expected)
    judge = result.members.index(Member("big"))
    assert result.filters == (Filter(FilterKind.PLAUSIBILITY, judge, 0.2),)


@pytest.mark.parametrize(("temperature", "weight"), [(0.5, 2.0), (1.0, 1.0), (2.0, 0.5)])
def test_contrastive_as_by_li_et_al(temperature: float, weight: float) -> None:
    """Li et al. 2022, section 3: s_e - s_a/tau; `--student_temperature` of their code is tau."""
    result = plan("contrastive", expert="big", amateur="small", amateur_temperature=temperature)
    expected = [e - weight * a for e, a in by_token("big", "small")]
    assert composed(result) == pytest.approx(expected)
    judge = result.members.index(Member("big"))
    assert result.filters == (Filter(FilterKind.PLAUSIBILITY, judge, 0.1),)


def test_contrastive_has_one_form_at_a_time() -> None:
    with pytest.raises(CompositionSchemaError, match=r"'beta' \(0\.5\) and 'amateur_temp.* leave"):
        plan("contrastive", amateur="small", beta=0.5, amateur_temperature=0.5)


@pytest.mark.parametrize(
    ("negative", "prompt"),
    [
        (None, LastToken()),
        ("be rude", TextPrompt("be rude")),
        (
            [{"role": "system", "content": "be rude"}, {"role": "user", "content": "hi"}],
            MessagesPrompt((("system", "be rude"), ("user", "hi"))),
        ),
    ],
)
def test_classifier_free_guidance(negative: Any, prompt: Any) -> None:
    """Sanchez et al. 2023, equation 7: uncond + gamma (cond - uncond)."""
    result = plan(
        "classifier_free_guidance", model="polite", guidance_scale=1.8, negative_prompt=negative
    )
    expected = [u + 1.8 * (c - u) for c, u in zip(REQUEST["polite"], OTHER_PROMPT, strict=True)]
    assert composed(result) == pytest.approx(expected)
    assert result.members == (Member("polite"), Member("polite", prompt))
    assert result.filters == ()


def test_context_aware() -> None:
    """Shi et al. 2023, equation 3: (1 + alpha) with the context - alpha without."""
    result = plan("context_aware", model="polite", context="a document", alpha=0.8)
    expected = [1.8 * c - 0.8 * u for c, u in zip(REQUEST["polite"], OTHER_PROMPT, strict=True)]
    assert composed(result) == pytest.approx(expected)
    assert result.members == (Member("polite"), Member("polite", WithoutText("a document")))
    assert result.filters == ()


def test_value_augmented() -> None:
    values = [{"model": "small", "beta": 0.5}, {"model": "rude", "beta": -2.0}]
    result = plan("value_augmented", base="big", values=values, top_k=3)
    expected = [b + 0.5 * s - 2.0 * r for b, s, r in by_token("big", "small", "rude")]
    assert composed(result) == pytest.approx(expected)
    judge = result.members.index(Member("big"))
    assert result.filters == (Filter(FilterKind.SOFT_TOP_K, judge, 3),)
    cut = plan("value_augmented", base="big", values=values, top_k=3, cut=True)
    assert cut == replace(result, filters=(Filter(FilterKind.TOP_K, judge, 3),))


def test_copilot() -> None:
    result = plan("copilot", base="big", copilot="small", weight=0.3)
    assert composed(result) == pytest.approx([b + 0.3 * s for b, s in by_token("big", "small")])
    assert result.filters == ()


def test_mixture() -> None:
    """Its weights are the prior; the router's formulas are for tests/composer/test_reference.py."""
    weights = {"rude": 1, "base": 3}
    router = {"kind": "fixed", "weights": weights}
    result = plan("mixture", experts=["rude", "base"], router=router)
    assert result.members == (Member("base"), Member("rude"))
    assert result.weights == (0.75, 0.25)
    given = WeightedMixtureSpec(((FixedPrior((("base", 0.75), ("rude", 0.25))), 1.0),))
    assert result.mixture == MixturePlan(given)
    assert result.filters == ()


@pytest.mark.parametrize(
    ("recipe", "least", "formula", "filters"),
    [
        ("proxy_tuning", {"expert": "polite"}, "polite", []),
        (
            "proxy_tuning",
            {"expert": "polite", "anti_expert": "rude"},
            "base + polite - rude",
            [],
        ),
        (
            "emulated_fine_tuning",
            {"tuned": "polite", "reference": "big"},
            "-base + big + polite",
            [],
        ),
        (
            "dexperts",
            {"expert": "polite", "anti_expert": "rude"},
            "base + 2*polite - 2*rude",
            [("top_p", "base", 0.9)],
        ),
        (
            "contrastive",
            {"amateur": "small"},
            "1.5*base - 0.5*small",
            [("plausibility", "base", 0.1)],
        ),
        ("classifier_free_guidance", {}, "1.5*base - 0.5*base[last token]", []),
        ("context_aware", {"context": "c"}, '1.5*base - 0.5*base[without "c"]', []),
        (
            "value_augmented",
            {"values": [{"model": "small"}]},
            "base + small",
            [("soft_top_k", "base", 20)],
        ),
        ("copilot", {"copilot": "small"}, "base + small", []),
        ("mixture", {"experts": ["polite", "base"]}, "mixture(base, polite)", []),
    ],
)
def test_defaults_are_those_of_the_papers(
    recipe: str, least: dict[str, Any], formula: str, filters: list[tuple[str, str, float]]
) -> None:
    description = plan(recipe, **least).to_dict()
    assert description["formula"] == formula
    assert [tuple(f.values()) for f in description["filters"]] == filters


@pytest.mark.parametrize(
    ("recipe", "neutral", "formula"),
    [
        ("proxy_tuning", {"expert": "polite", "alpha": 0}, "base"),
        ("emulated_fine_tuning", {"tuned": "polite", "weight": 0}, "base"),
        ("dexperts", {"expert": "polite", "anti_expert": "rude", "alpha": 0, "top_p": 1}, "base"),
        ("contrastive", {"amateur": "small", "beta": 0, "plausibility": 0}, "base"),
        ("classifier_free_guidance", {"guidance_scale": 1}, "base"),
        ("context_aware", {"context": "c", "alpha": 0}, "base"),
        ("copilot", {"copilot": "small", "weight": 0}, "base"),
        ("value_augmented", {"values": [{"model": "small", "beta": 0}]}, "base"),
    ],
)
def test_without_strength_a_recipe_is_the_model_alone(
    recipe: str, neutral: dict[str, Any], formula: str
) -> None:
    result = plan(recipe, **neutral)
    assert result.formula() == formula
    assert result.is_plain


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_is_documented(recipe: Recipe[Any]) -> None:
    assert recipe.title
    paper = re.search(r'\w+ et al\. 20\d\d, "[^"]+", arXiv:\d{4}\.\d{5}', recipe.citation)
    assert paper or recipe.citation.startswith("ours")
    assert recipe.fields.__doc__ == recipe.formula
    assert get_args(recipe.fields.model_fields["recipe"].annotation) == (recipe.name,)


def test_the_schema_describes_every_field() -> None:
    schemas = composition_schemas()
    objects = [value for name, value in schemas.items() if name != "Composition"]
    assert len(objects) > len(RECIPES) + len(ROUTERS)
    for definition in objects:
        assert definition["description"]
        if definition["type"] == "object":
            assert definition["additionalProperties"] is False
            for name, field in definition["properties"].items():
                assert field.get("description"), f"{definition['title']}.{name}"


def test_the_schema_lists_every_recipe_and_every_router() -> None:
    schemas = composition_schemas()
    _, _, recipes, _ = schemas["Composition"]["anyOf"]
    assert list(recipes["discriminator"]["mapping"]) == sorted(r.name for r in RECIPES)
    name, fields = schemas["Composition.Mixture"]["properties"]["router"]["anyOf"]
    assert name["enum"] == [router.name for router in ROUTERS]
    assert list(fields["discriminator"]["mapping"]) == sorted(name["enum"])
    assert fields["required"] == ["kind"]


def test_every_example_follows_the_schema_and_is_a_composition() -> None:
    schemas = composition_schemas()
    validator = Draft202012Validator(
        {"$ref": "#/components/schemas/Composition", "components": {"schemas": schemas}}
    )
    examples = schemas["Composition"]["examples"]
    assert {value["recipe"] for value in examples if "recipe" in value} == {
        recipe.name for recipe in RECIPES
    }
    for example in examples:
        validator.validate(example)
        assert parse_composition(example, known=KNOWN_IN_ZOO).members
    for wrong in (7, {"recipe": "none"}, {**examples[-1], "router": {}}, {"formula": "a", "x": 1}):
        assert not validator.is_valid(wrong)
