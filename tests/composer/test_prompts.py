"""What members read, as shown and as ordered."""

from __future__ import annotations

import itertools
import json
import re
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from composer.prompts import (
    LastToken,
    MessagesPrompt,
    Prompt,
    RequestPrompt,
    TextPrompt,
    TokensPrompt,
    WithoutText,
    describe,
    hidden,
    label,
    sort_key,
)
from composer.recipes import RECIPES
from composer.request import PROMPT_FIELDS, MemberFields, holds_prompts, parse_composition

CASES: list[tuple[Prompt, str | dict[str, Any], str]] = [
    (RequestPrompt(), "request", ""),
    (LastToken(), "last token", "last token"),
    (TextPrompt("be rude"), {"text": "be rude"}, 'text "be rude"'),
    (TextPrompt("x" * 40), {"text": "x" * 40}, 'text "' + "x" * 40 + '"'),
    (TextPrompt("x" * 41), {"text": "x" * 41}, 'text "' + "x" * 39 + '…"'),
    (
        MessagesPrompt((("system", "be\nrude"), ("user", "hi"))),
        {
            "messages": [
                {"role": "system", "content": "be\nrude"},
                {"role": "user", "content": "hi"},
            ]
        },
        'messages "hi"',
    ),
    (TokensPrompt((5, 6, 7)), {"token_ids": 3}, "3 token ids"),
    (WithoutText('a "b"'), {"without": 'a "b"'}, r'without "a \"b\""'),
]


@pytest.mark.parametrize(("prompt", "described", "labelled"), CASES)
def test_shown(prompt: Prompt, described: str | dict[str, Any], labelled: str) -> None:
    assert describe(prompt) == described
    assert json.loads(json.dumps(describe(prompt))) == described
    assert label(prompt) == labelled


def test_order_starts_with_the_request_and_tells_all_apart() -> None:
    prompts = [prompt for prompt, _, _ in CASES]
    assert min(prompts, key=sort_key) == RequestPrompt()
    for one, other in itertools.combinations(prompts, 2):
        assert sort_key(one) != sort_key(other)


def test_equal_prompts_are_one_key() -> None:
    assert len({MessagesPrompt((("user", "hi"),)), MessagesPrompt((("user", "hi"),))}) == 1
    texts: set[Prompt] = {TextPrompt("a"), WithoutText("a")}
    assert len(texts) == 2


@pytest.mark.parametrize("prompt", [prompt for prompt, _, _ in CASES])
def test_what_is_hidden_is_not_shown(prompt: Prompt) -> None:
    private = hidden(prompt)
    if isinstance(prompt, RequestPrompt | LastToken):
        assert private == prompt
    else:
        assert private != prompt
        assert (describe(private), label(private)) == ("private", "private")
        assert hidden(private) == private


SECRET = "our instructions"
WITH_PROMPTS: list[dict[str, Any]] = [
    {"members": [{"model": "base", "weight": 1}, {"model": "base", "weight": 1, **own}]}
    for own in (
        {"prompt": SECRET},
        {"messages": [{"role": "user", "content": SECRET}]},
        {"prompt_token_ids": [4, 2]},
    )
] + [
    {"recipe": "classifier_free_guidance", "negative_prompt": SECRET},
    {"recipe": "classifier_free_guidance", "negative_prompt": [{"role": "a", "content": SECRET}]},
    {"recipe": "context_aware", "context": SECRET},
]


@pytest.mark.parametrize("composition", WITH_PROMPTS)
def test_a_hidden_plan_shows_no_prompt(composition: dict[str, Any]) -> None:
    plan = parse_composition(composition, known={"base"})
    shown = plan.hidden().to_dict()
    assert holds_prompts(composition)
    assert shown["private"] is True
    assert [member["prompt"] for member in shown["members"]] == ["request", "private"]
    assert SECRET not in json.dumps(shown)
    assert "private" not in plan.to_dict()
    assert plan.hidden().weights == plan.weights


NAMES_OF_MODELS = {
    "amateur",
    "anti_expert",
    "base",
    "copilot",
    "expert",
    "experts",
    "model",
    "pairs",
    "recipe",
    "reference",
    "router",
    "tuned",
    "values",
}


def test_every_text_of_a_composition_is_a_name_or_a_prompt() -> None:
    """A field that holds a prompt and is not known as one would be shown to everybody."""
    models: list[type[BaseModel]] = [MemberFields, *(recipe.fields for recipe in RECIPES)]
    numbers = {"NoneType", "bool", "float", "int"}
    texts = {
        name
        for model in models
        for name, field in model.model_fields.items()
        if not numbers >= set(re.findall(r"[A-Za-z]\w*", _plain(field.annotation)))
    }
    assert (texts - NAMES_OF_MODELS) | {"prompt_token_ids"} == PROMPT_FIELDS
    assert not holds_prompts({"recipe": "proxy_tuning", "expert": "polite", "prompt": None})
    assert not holds_prompts("base + polite")


def _plain(annotation: object) -> str:
    """The innermost types of an annotation, by name."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = inner[:1]
    return " ".join(map(_plain, inner)) if inner else getattr(annotation, "__name__", "other")
