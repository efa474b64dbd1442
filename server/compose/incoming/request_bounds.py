"""Bounds on the size of a request, checked before anything else happens.

The size of a request decides how long its tokenizer, its grammar and the engine's tables take. The
bounds are generous for people and small for machines; each message names the bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from composer.bounds import check_repetition_penalty, check_token_lists
from server.compose.incoming.grammar_bounds import GRAMMAR_FIELDS, check_grammars
from server.compose.incoming.value_bounds import (
    check_entries,
    check_length,
    check_values,
    shorten,
)
from server.errors import RequestBoundError

MAX_MODEL_CHARACTERS = 8192
"""Characters of the field `model`, which may be a formula."""

MAX_ANSWERS = 1024
"""Prompts of a request times the answers to each (`n`)."""

MAX_ENTRIES: Mapping[str, int] = {
    "messages": 2048,
    "input": 1024,
    "tools": 128,
    "stop": 128,
    "stop_sequences": 128,
    "bad_words": 128,
}
"""Entries of each field that is a list."""

MAX_STOP_CHARACTERS = 1024
"""Characters of each stop string and bad word; vLLM compares every token with all of them."""

MAX_ROLE_CHARACTERS = 64
"""Characters of the role of a message. vLLM logs roles that it does not know."""

MAX_ID_CHARACTERS = 256
"""Characters of `request_id`."""


def check_bounds(body: Mapping[str, Any]) -> None:
    """Refuse a request that exceeds a bound, in time proportional to the size of `body`.

    Raises:
        RequestBoundError: names the field, its value and the bound.
    """
    check_values(body)
    check_length("model", body.get("model"), MAX_MODEL_CHARACTERS)
    check_length("request_id", body.get("request_id"), MAX_ID_CHARACTERS)
    for field, bound in MAX_ENTRIES.items():
        check_entries(field, body.get(field), bound)
    for field in ("messages", "input"):
        for message in body[field] if isinstance(body.get(field), list) else ():
            if isinstance(message, dict):
                check_length(f"a role in {field}", message.get("role"), MAX_ROLE_CHARACTERS)
    for field in ("stop", "stop_sequences", "bad_words"):
        texts = body.get(field)
        for text in texts if isinstance(texts, list) else [texts]:
            check_length(f"each entry of {field}", text, MAX_STOP_CHARACTERS)
    _check_whole_numbers(body)
    _check_answers(body)
    _check_tokens(body)
    for field in GRAMMAR_FIELDS & body.keys():
        check_grammars(field, body[field])


def check_composed_bounds(body: Mapping[str, Any]) -> None:
    """Refuse values that only a composed request may not have.

    Raises:
        RequestBoundError: names the field, its value and the bounds.
    """
    field = "repetition_penalty"
    try:
        penalty = float(body[field])  # vLLM converts strings
    except (KeyError, TypeError, ValueError):
        return  # absent, or not a number, which vLLM refuses
    try:
        check_repetition_penalty(penalty)
    except ValueError as error:
        raise RequestBoundError(f"{error}. Choose one closer to 1.", param=field) from error


def count_answers(body: Mapping[str, Any]) -> int:
    """Return how many answers a request asks for: its prompts times `n`."""
    prompts, answers_each = _count_prompts(body), body.get("n")
    return prompts * max(answers_each, 1) if isinstance(answers_each, int) else prompts


def _count_prompts(body: Mapping[str, Any]) -> int:
    prompts = body.get("prompt")
    if not isinstance(prompts, list) or all(isinstance(prompt, int) for prompt in prompts):
        return 1
    return len(prompts)


def _check_whole_numbers(body: Mapping[str, Any]) -> None:
    """Refuse values such as "3" and 3.0, which vLLM reads as 3 and the other checks do not."""
    for field in ("n", "best_of", "min_tokens"):
        value = body.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise RequestBoundError(
                f"{field} is {shorten(json.dumps(value))}. Give a whole number.", param=field
            )


def _check_answers(body: Mapping[str, Any]) -> None:
    if (answers := count_answers(body)) > MAX_ANSWERS:
        prompts = _count_prompts(body)
        raise RequestBoundError(
            f"the request asks for {prompts} x {answers // prompts} answers; at most "
            f"{MAX_ANSWERS}. Send several requests.",
            param="prompt" if prompts > answers // prompts else "n",
        )


def _check_tokens(body: Mapping[str, Any]) -> None:
    def length(field: str) -> int:
        value = body.get(field)
        return len(value) if isinstance(value, list | dict) else 0

    min_tokens = body.get("min_tokens")
    try:
        check_token_lists(
            stop=length("stop_token_ids"),
            allowed=length("allowed_token_ids"),
            biased=length("logit_bias"),
            min_tokens=min_tokens if isinstance(min_tokens, int) else 0,
        )
    except ValueError as error:
        raise RequestBoundError(f"{error}. Send fewer.") from error
