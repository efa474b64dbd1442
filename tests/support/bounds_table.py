"""The table of request bounds in docs/operating.md, from the constants of the server."""

from __future__ import annotations

from composer.bounds import (
    MAX_ALLOWED_TOKENS,
    MAX_BIASED_TOKENS,
    MAX_REPETITION_PENALTY,
    MAX_STOP_TOKENS,
    MIN_REPETITION_PENALTY,
)
from composer.fields import MAX_EXPERTS, MAX_FILTERS, MAX_MEMBERS, MAX_NAME
from composer.formula import MAX_LENGTH
from server.compose.incoming import grammar_bounds, request_bounds, value_bounds


def bounds_table() -> str:
    """Return the bounds as a Markdown table."""
    entries = ", ".join(f"`{name}` {bound}" for name, bound in request_bounds.MAX_ENTRIES.items())
    rows = (
        ("nesting depth of objects and lists", value_bounds.MAX_DEPTH),
        ("objects, lists and numbers, lists of token ids not counted", value_bounds.MAX_VALUES),
        ("characters of `model`", request_bounds.MAX_MODEL_CHARACTERS),
        ("prompts times `n`", request_bounds.MAX_ANSWERS),
        (f"entries of {entries}", "as listed"),
        ("characters of the role of a message", request_bounds.MAX_ROLE_CHARACTERS),
        ("characters of each entry of `stop` and `bad_words`", request_bounds.MAX_STOP_CHARACTERS),
        ("entries of `stop_token_ids`, fewer beside `min_tokens`", MAX_STOP_TOKENS),
        ("entries of `allowed_token_ids`", MAX_ALLOWED_TOKENS),
        ("entries of `logit_bias`", MAX_BIASED_TOKENS),
        (
            "`repetition_penalty` of a composed request, which must be at least "
            f"{MIN_REPETITION_PENALTY:g}",
            f"{MAX_REPETITION_PENALTY:g}",
        ),
        ("bytes of a JSON schema", grammar_bounds.MAX_SCHEMA_BYTES),
        ("`minItems`, `maxLength` and the like", grammar_bounds.MAX_COUNT),
        ("properties of a schema, all objects together", grammar_bounds.MAX_PROPERTIES),
        ("entries of `enum`, `choice`, `anyOf` and the like", grammar_bounds.MAX_ALTERNATIVES),
        ("characters of a grammar or regular expression", grammar_bounds.MAX_GRAMMAR_CHARACTERS),
        (
            "characters of a regular expression with its repetitions expanded",
            grammar_bounds.MAX_PATTERN_LENGTH,
        ),
        ("product of the repetitions of a grammar", grammar_bounds.MAX_COUNT),
        ("members of a composition, before equal ones are merged", MAX_MEMBERS),
        ("experts of a mixture", MAX_EXPERTS),
        ("filters of a composition", MAX_FILTERS),
        ("characters of the name of a member", MAX_NAME),
        ("characters of a formula", MAX_LENGTH),
    )
    lines = ["| bound on | at most |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {bound} |" for what, bound in rows])
