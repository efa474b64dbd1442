"""The fields that this server adds to vLLM's requests, and the checks that none got lost."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from composer.errors import CompositionSchemaError, nearest_name, quoted
from server.errors import CompositionLostError

FIELD = "composition"
"""What to compose. vLLM never sees this field."""

COMPARE = "compare"
"""Whether to answer with each expert alone as well."""

EXPLAIN = "explain"
"""Whether to say what every member thought of each token of the answer."""

EXPECT = "X-Composer-Expect"
"""Request header by which a client states that it asked for a composition."""

_OURS = (FIELD, COMPARE, EXPLAIN)

_NEAR_FIELDS = (FIELD, "compaction", "completions", "conversation")
"""Names that a misspelt field is compared with; all but the first belong to other protocols."""

_NEAR_FLAG = 0.85
"""From this ratio on a field is a misspelt `compare` or `explain`; "compress" has 0.8."""


def without_composer_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that vLLM knows."""
    return {name: value for name, value in body.items() if name not in _OURS}


def wants(flag: str, body: Mapping[str, Any]) -> bool:
    """Return the field `compare` or `explain`. Raise `CompositionSchemaError` if it is not a
    boolean."""
    value = body.get(flag)
    if value is not None and not isinstance(value, bool):
        raise CompositionSchemaError(
            f"'{flag}' is {quoted(repr(value))}. Give true or false.", param=flag
        )
    return bool(value)


def check_misspelt(body: Mapping[str, Any]) -> None:
    """Check that no field looks like a misspelt one of ours.

    vLLM ignores unknown fields, so the base model would answer as if nothing had been composed.

    Raises:
        CompositionLostError: a field looks like `composition`.
        CompositionSchemaError: a field looks like `compare` or `explain`.
    """
    for name in body:
        if name[:1] not in "cCeE" or name in _OURS:
            continue
        advice = f"{quoted(name)} is not a field of a request; did you mean"
        if nearest_name(name.lower(), _NEAR_FIELDS) == FIELD:
            raise CompositionLostError(f"{advice} '{FIELD}'?", param=name)
        if len(name) > 2 * len(COMPARE):
            continue
        for flag in difflib.get_close_matches(name.lower(), (COMPARE, EXPLAIN), 1, _NEAR_FLAG):
            raise CompositionSchemaError(f"{advice} '{flag}'?", param=name)


def check_expected(scope: Scope, *, composed: bool) -> None:
    """Raise `CompositionLostError` if the client expects a composed answer and gets another.

    Gateways drop fields that they do not know; the base model's answer would look like a composed
    one.
    """
    expected = Headers(scope=scope).get(EXPECT)
    if expected is None:
        return
    if expected != FIELD:
        raise CompositionLostError(
            f"the header {EXPECT} is {quoted(expected)}. Its only valid value is '{FIELD}'."
        )
    if not composed:
        raise CompositionLostError(
            f"the header {EXPECT} asks for a composed answer, and this request composes nothing. "
            f"A gateway on the way may have dropped the field '{FIELD}': name a formula or a "
            "stored composition as the model instead."
        )
