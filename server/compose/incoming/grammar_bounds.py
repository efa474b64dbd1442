"""Bounds on grammars: JSON schemas, regular expressions and EBNF, which the engine compiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from composer.errors import quoted
from server.compose.incoming.value_bounds import (
    MAX_DEPTH,
    check_entries,
    check_length,
    check_values,
    shorten,
)
from server.errors import RequestBoundError

GRAMMAR_FIELDS = frozenset(
    {"response_format", "structured_outputs", "text", "output_config", "tools"}
)
"""Fields, of all routes, from which vLLM may compile a grammar."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Bytes of each JSON schema, as JSON."""

MAX_GRAMMAR_CHARACTERS = 16 * 1024
"""Characters of a grammar or a regular expression. Some back ends take quadratic time."""

MAX_COUNT = 10_000
"""Largest repetition count of a schema (`minItems`, `maxLength`, ...). One of vLLM's back ends
allocates memory for each repetition: 10^9 of them killed the server."""

MAX_ALTERNATIVES = 1024
"""Entries of `enum`, `choice`, `anyOf` and the like."""

MAX_PROPERTIES = 512
"""Properties of all objects of one schema."""

MAX_PATTERN_LENGTH = 2000
"""Characters of a regular expression with its repetitions expanded: `(ab{3}){2}` has 8."""

_COUNTED = ("Items", "Length", "Properties", "Contains")
_COUNTS = frozenset(f"{bound}{what}" for bound in ("min", "max") for what in _COUNTED)
_ALTERNATIVES = frozenset({"enum", "anyOf", "oneOf", "allOf", "choice", "prefixItems", "type"})


def check_grammars(field: str, value: object) -> None:
    """Refuse a field whose grammars would take too long to compile.

    Args:
        field: one of `GRAMMAR_FIELDS`.
        value: the value of the field; in a list, each entry has its own grammar.

    Raises:
        RequestBoundError: names the path, its value and the bound.
    """
    entries = value if isinstance(value, list) else [value]
    for index, entry in enumerate(entries):
        path = f"{field}[{index}]" if isinstance(value, list) else field
        size = len(json.dumps(entry, ensure_ascii=False))
        if size > MAX_SCHEMA_BYTES:
            raise RequestBoundError(
                f"{path} has {size} bytes as JSON; at most {MAX_SCHEMA_BYTES}. Simplify it.",
                param=path,
            )
        _check_schema(path, entry)


def _check_schema(path: str, schema: object) -> None:
    properties = 0
    pattern_characters = 0
    for where, name, value in _schema_entries(path, schema):
        _check_entry(where, name, value)
        if name in ("properties", "patternProperties") and isinstance(value, dict):
            properties += len(value)
        if name in ("pattern", "regex") and isinstance(value, str):
            pattern_characters += pattern_length(value)
        elif name == "patternProperties" and isinstance(value, dict):
            pattern_characters += sum(map(pattern_length, value))
    if properties > MAX_PROPERTIES:
        raise RequestBoundError(
            f"{path} has {properties} properties; at most {MAX_PROPERTIES}.", param=path
        )
    if pattern_characters > MAX_PATTERN_LENGTH:
        raise RequestBoundError(
            f"the regular expressions of {path} have {pattern_characters} characters with their "
            f"repetitions expanded; at most {MAX_PATTERN_LENGTH}. Use shorter ones.",
            param=path,
        )


def _schema_entries(path: str, schema: object) -> Iterator[tuple[str, str, Any]]:
    """Yield path, name and value of every entry of a schema, also of schemas written as text."""
    pending: list[tuple[str, object]] = [(path, schema)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, list):
            pending.extend((where, entry) for entry in value if isinstance(entry, dict | list))
        elif isinstance(value, dict):
            for name, entry in value.items():
                here = f"{where}.{name}"
                yield here, name, entry
                if name in ("json", "structural_tag") and isinstance(entry, str):
                    pending.append((here, _parse_schema(here, entry)))
                pending.append((here, entry))


def _check_entry(path: str, name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _COUNTS and is_number and value > MAX_COUNT:
        raise RequestBoundError(
            f"{shorten(path)} is {value}; at most {MAX_COUNT}.", param=shorten(path)
        )
    if name == "$ref" and isinstance(value, str) and not value.startswith("#"):
        raise RequestBoundError(
            f"{shorten(path)} is {quoted(value)}, which is outside of the schema, and would "
            "not be followed. Put what it names into '$defs'.",
            param=shorten(path),
        )
    if name in _ALTERNATIVES and isinstance(value, list):
        check_entries(path, value, MAX_ALTERNATIVES)
    if name in ("grammar", "regex"):
        check_length(path, value, MAX_GRAMMAR_CHARACTERS)
    if name == "grammar" and isinstance(value, str):
        _check_repetitions(path, value)


def _parse_schema(path: str, text: str) -> object:
    check_length(path, text, MAX_SCHEMA_BYTES)
    try:
        value = json.loads(text)
    except ValueError:
        return None  # vLLM refuses the schema in its own words
    except RecursionError:
        raise RequestBoundError(
            f"{path} is nested more than {MAX_DEPTH} deep. Send a flatter schema.", param=path
        ) from None
    check_values({path: value})
    return value


def pattern_length(pattern: str) -> int:
    """Return at least the number of characters of a pattern with its repetitions expanded.

    `a{2,5}` counts as five, `(ab){3}` as six, `a*` as one. A malformed pattern counts as it is
    written; the back end refuses it.
    """
    groups: list[int] = [0]  # length of each open group
    last = 0  # length of the previous item, which a repetition multiplies
    place = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "{" and (repetition := _repetition(pattern, place)) is not None:
            count, place = repetition
            groups[-1] += last * (count - 1)
            last *= count
            continue
        if character == "\\":
            place += 1
            last = 1
        elif character == "[":
            place = _class_end(pattern, place)
            last = 1
        elif character == "(":
            groups.append(0)
            place += 1
            continue
        elif character == ")" and len(groups) > 1:
            last = groups.pop()
        elif character in "*+?|^$":
            place += 1
            continue
        else:
            last = 1
        groups[-1] += last
        place += 1
    return sum(groups)


def _repetition(pattern: str, start: int) -> tuple[int, int] | None:
    """Return the largest count of the `{n}`, `{n,}` or `{n,m}` at `start`, and its end."""
    end = pattern.find("}", start)
    numbers = pattern[start + 1 : end].split(",") if end > 0 else []
    if not 1 <= len(numbers) <= 2 or not all(n.strip().isdecimal() or not n for n in numbers):
        return None
    counts = [int(n[:12]) for n in numbers if n.strip()]
    return (max(counts, default=1) or 1, end + 1)


def _class_end(pattern: str, start: int) -> int:
    """Return the position of the `]` that closes the character class at `start`."""
    place = start + 1
    while place < len(pattern) and (pattern[place] != "]" or place == start + 1):
        place += 2 if pattern[place] == "\\" else 1
    return place


def _check_repetitions(path: str, grammar: str) -> None:
    """Bound the product of all repetitions of a grammar, because its rules may be nested."""
    product = 1
    place = grammar.find("{")
    while place >= 0:
        if (repetition := _repetition(grammar, place)) is not None:
            product *= repetition[0]
        if product > MAX_COUNT:
            raise RequestBoundError(
                f"the repetitions of {path} multiply to {product} or more; at most {MAX_COUNT}.",
                param=path,
            )
        place = grammar.find("{", place + 1)
