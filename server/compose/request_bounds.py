"""How large a request may be, checked before anything is done with it.

What a request holds decides how long its tokenizer, its grammar and the engine's tables take. The
bounds are generous for people and small for machines; each message names the bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from composer.bounds import (
    MAX_ALLOWED_TOKENS,
    MAX_BIASED_TOKENS,
    MAX_REPETITION_PENALTY,
    MAX_STOP_TOKENS,
    MIN_REPETITION_PENALTY,
    check_repetition_penalty,
    check_token_lists,
)
from composer.errors import quoted
from composer.fields import MAX_EXPERTS, MAX_FILTERS, MAX_MEMBERS, MAX_NAME
from composer.formula import MAX_LENGTH
from server.errors import RequestBoundError

MAX_DEPTH = 100
"""Objects and lists within each other. Reading and copying a request recurses."""

MAX_VALUES = 65_536
"""Objects, lists and numbers in a request."""

MAX_MODEL_CHARACTERS = 8192
"""Of the field `model`, which may be a formula."""

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
"""Entries of fields that are lists."""

MAX_STOP_CHARACTERS = 1024
"""Of each text that ends an answer or must not occur; every token is compared with it."""

MAX_ROLE_CHARACTERS = 64
"""Of who speaks in a message. vLLM writes a role that it does not know into its log."""

MAX_ID_CHARACTERS = 256
"""Of the identifiers that a request may bring."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Of each JSON schema, as JSON."""

MAX_GRAMMAR_CHARACTERS = 16 * 1024
"""Of a grammar or a regular expression. Some back ends take a time that grows with its square."""

MAX_COUNT = 10_000
"""Of the numbers of a schema that say how often something occurs (`minItems`). One of vLLM's back
ends allocates memory for each occurrence: 10^9 of them ended the server."""

MAX_ALTERNATIVES = 1024
"""Entries of `enum`, `choice`, `anyOf` and the like."""

MAX_PROPERTIES = 512
"""Properties of all objects of one schema."""

MAX_PATTERN_LENGTH = 2000
"""Characters of a regular expression, its repetitions written out: `(ab{3}){2}` has 8."""

_COUNTED = ("Items", "Length", "Properties", "Contains")
_COUNTS = frozenset(f"{bound}{what}" for bound in ("min", "max") for what in _COUNTED)
_ALTERNATIVES = frozenset({"enum", "anyOf", "oneOf", "allOf", "choice", "prefixItems", "type"})
GRAMMAR_FIELDS = frozenset(
    {"response_format", "structured_outputs", "text", "output_config", "tools"}
)
"""Fields of all routes that a grammar may be compiled from."""

_FLOAT32_MAX = 3.4028234663852886e38


def check_bounds(body: Mapping[str, Any]) -> None:
    """Refuse a request that is larger than its route can afford.

    Takes time in proportion to the size of `body`.

    Raises:
        RequestBoundError: names the field, what it holds and the bound.
    """
    _check_values(body)
    _check_length("model", body.get("model"), MAX_MODEL_CHARACTERS)
    _check_length("request_id", body.get("request_id"), MAX_ID_CHARACTERS)
    for field, most in MAX_ENTRIES.items():
        _check_entries(field, body.get(field), most)
    for field in ("messages", "input"):
        for message in body[field] if isinstance(body.get(field), list) else ():
            if isinstance(message, dict):
                _check_length(f"a role in {field}", message.get("role"), MAX_ROLE_CHARACTERS)
    for field in ("stop", "stop_sequences", "bad_words"):
        texts = body.get(field)
        for text in texts if isinstance(texts, list) else [texts]:
            _check_length(f"each entry of {field}", text, MAX_STOP_CHARACTERS)
    _check_counts_are_whole(body)
    _check_answers(body)
    _check_tokens(body)
    for field in GRAMMAR_FIELDS:
        if field in body:
            _check_schemas(field, body[field])


def _check_values(body: Mapping[str, Any]) -> None:
    """Depth, and numbers that no field can hold."""
    left: list[tuple[str, object, int]] = [("", body, 1)]
    seen = 1
    while left:
        path, value, depth = left.pop()
        if depth > MAX_DEPTH:
            raise RequestBoundError(
                f"{_short(path)} is nested more than {MAX_DEPTH} deep. Send a flatter request.",
                param=path.partition(".")[0],
            )
        if isinstance(value, dict):
            inner = [(f"{path}.{key}" if path else key, v) for key, v in value.items()]
        elif isinstance(value, list):
            inner = [(path, v) for v in _suspects(value)]
        else:
            _check_number(path, value)
            continue
        inner = [(path, v) for path, v in inner if isinstance(v, dict | list | int | float)]
        seen += len(inner)
        if seen > MAX_VALUES:
            raise _too_many_values()
        left.extend((path, v, depth + 1) for path, v in inner)


def _suspects(values: list[Any]) -> list[Any]:
    """What of a list has to be looked at: of whole numbers the extremes, for there may be many."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return [min(values), max(values)]
    if kinds != {str} and len(values) > MAX_VALUES:
        raise _too_many_values()
    return values


def _too_many_values() -> RequestBoundError:
    return RequestBoundError(
        f"the request has more than {MAX_VALUES} objects, lists and numbers, lists of token ids "
        "not counted. Send a smaller one."
    )


def _check_number(path: str, value: object) -> None:
    if isinstance(value, float) and not abs(value) <= _FLOAT32_MAX:
        shown = repr(value) if math.isfinite(value) else "not a finite number"
        raise RequestBoundError(
            f"{_short(path)} is {shown}. Give a number that a 32-bit float holds.",
            param=_short(path),
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RequestBoundError(
            f"{_short(path)} is an integer of {len(str(abs(value)))} digits. Give one that 64 "
            "bits hold.",
            param=_short(path),
        )


def count_answers(body: Mapping[str, Any]) -> int:
    """How many answers a request asks for: its prompts times `n`."""
    prompts, each = _prompts(body), body.get("n")
    return prompts * max(each, 1) if isinstance(each, int) else prompts


def _prompts(body: Mapping[str, Any]) -> int:
    prompts = body.get("prompt")
    if not isinstance(prompts, list) or all(isinstance(prompt, int) for prompt in prompts):
        return 1
    return len(prompts)


def _check_counts_are_whole(body: Mapping[str, Any]) -> None:
    """vLLM reads "3" and 3.0 as 3, which the bounds below would not see."""
    for field in ("n", "best_of", "min_tokens"):
        value = body.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise RequestBoundError(
                f"{field} is {_short(json.dumps(value))}. Give a whole number.", param=field
            )


def _check_answers(body: Mapping[str, Any]) -> None:
    if (answers := count_answers(body)) > MAX_ANSWERS:
        prompts = _prompts(body)
        raise RequestBoundError(
            f"the request asks for {prompts} x {answers // prompts} answers; at most "
            f"{MAX_ANSWERS}. Send several requests.",
            param="prompt" if prompts * prompts > answers else "n",
        )


def _check_tokens(body: Mapping[str, Any]) -> None:
    def length(field: str) -> int:
        value = body.get(field)
        return len(value) if isinstance(value, list | dict) else 0

    least = body.get("min_tokens")
    try:
        check_token_lists(
            stop=length("stop_token_ids"),
            allowed=length("allowed_token_ids"),
            biased=length("logit_bias"),
            min_tokens=least if isinstance(least, int) else 0,
        )
    except ValueError as error:
        raise RequestBoundError(f"{error}. Send fewer.") from error


def check_composed(body: Mapping[str, Any]) -> None:
    """Refuse what only a composed request may not have.

    Raises:
        RequestBoundError: names the field, its value and the bounds.
    """
    field = "repetition_penalty"
    try:
        penalty = float(body[field])  # vLLM reads strings too
    except (KeyError, TypeError, ValueError):
        return  # absent, or not a number, which vLLM refuses
    try:
        check_repetition_penalty(penalty)
    except ValueError as error:
        raise RequestBoundError(f"{error}. Choose one closer to 1.", param=field) from error


# ---- grammars


def _check_schemas(field: str, value: object) -> None:
    """Bound everything in `value` that a grammar is compiled from."""
    for path, one in _schemas(field, value):
        size = len(json.dumps(one, ensure_ascii=False))
        if size > MAX_SCHEMA_BYTES:
            raise RequestBoundError(
                f"{path} has {size} bytes as JSON; at most {MAX_SCHEMA_BYTES}. Simplify it.",
                param=path,
            )
        _check_schema(path, one)


def _schemas(field: str, value: object) -> Iterator[tuple[str, object]]:
    """The schemas of a field, one by one: each tool has its own."""
    if isinstance(value, list):
        for place, one in enumerate(value):
            yield f"{field}[{place}]", one
    else:
        yield field, value


def _check_schema(path: str, schema: object) -> None:
    properties = 0
    patterns = 0
    left: list[tuple[str, object]] = [(path, schema)]
    while left:
        where, value = left.pop()
        if isinstance(value, list):
            left.extend((where, one) for one in value if isinstance(one, dict | list))
            continue
        if not isinstance(value, dict):
            continue
        for name, entry in value.items():
            here = f"{where}.{name}"
            if name in _COUNTS and _is_number(entry) and entry > MAX_COUNT:
                raise RequestBoundError(
                    f"{_short(here)} is {entry}; at most {MAX_COUNT}.", param=_short(here)
                )
            if name == "$ref" and isinstance(entry, str) and not entry.startswith("#"):
                raise RequestBoundError(
                    f"{_short(here)} is {quoted(entry)}, which is outside of the schema, and would "
                    "not be followed. Put what it names into '$defs'.",
                    param=_short(here),
                )
            if name in _ALTERNATIVES and isinstance(entry, list):
                _check_entries(here, entry, MAX_ALTERNATIVES)
            if name in ("grammar", "regex"):
                _check_length(here, entry, MAX_GRAMMAR_CHARACTERS)
            if name in ("pattern", "regex") and isinstance(entry, str):
                patterns += pattern_length(entry)
            elif name == "patternProperties" and isinstance(entry, dict):
                patterns += sum(map(pattern_length, entry))
            if name == "grammar" and isinstance(entry, str):
                _check_counts(here, entry)
            if name in ("properties", "patternProperties") and isinstance(entry, dict):
                properties += len(entry)
            if name in ("json", "structural_tag") and isinstance(entry, str):
                left.append((here, _parsed(here, entry)))
            left.append((here, entry))
    if properties > MAX_PROPERTIES:
        raise RequestBoundError(
            f"{path} has {properties} properties; at most {MAX_PROPERTIES}.", param=path
        )
    if patterns > MAX_PATTERN_LENGTH:
        raise RequestBoundError(
            f"the regular expressions of {path} have {patterns} characters, repetitions written "
            f"out; at most {MAX_PATTERN_LENGTH}. Use shorter ones.",
            param=path,
        )


def _parsed(path: str, text: str) -> object:
    _check_length(path, text, MAX_SCHEMA_BYTES)
    try:
        value = json.loads(text)
    except ValueError:
        return None  # vLLM refuses it, in its own words
    except RecursionError:
        raise RequestBoundError(
            f"{path} is nested more than {MAX_DEPTH} deep. Send a flatter schema.", param=path
        ) from None
    _check_values({path: value})
    return value


def pattern_length(pattern: str) -> int:
    """Characters of a regular expression with its repetitions written out, at least.

    `a{2,5}` counts as five, `(ab){3}` as six, `a*` as one. What is not well formed counts as it
    stands; the back end refuses it.
    """
    groups: list[int] = [0]  # lengths of the groups that are open
    last = 0  # of the item before, which a repetition multiplies
    place = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "{" and (times := _repetition(pattern, place)) is not None:
            count, place = times
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
    """The largest count of `{n}`, `{n,}` or `{n,m}`, and where it ends."""
    end = pattern.find("}", start)
    numbers = pattern[start + 1 : end].split(",") if end > 0 else []
    if not 1 <= len(numbers) <= 2 or not all(n.strip().isdecimal() or not n for n in numbers):
        return None
    found = [int(n[:12]) for n in numbers if n.strip()]
    return (max(found, default=1) or 1, end + 1)


def _class_end(pattern: str, start: int) -> int:
    """Where the `]` of a class stands that begins at `start`."""
    place = start + 1
    while place < len(pattern) and (pattern[place] != "]" or place == start + 1):
        place += 2 if pattern[place] == "\\" else 1
    return place


def _check_counts(path: str, grammar: str) -> None:
    """Bound the repetitions of a grammar, whose rules may stand within each other."""
    product = 1
    place = grammar.find("{")
    while place >= 0:
        if (times := _repetition(grammar, place)) is not None:
            product *= times[0]
        if product > MAX_COUNT:
            raise RequestBoundError(
                f"the repetitions of {path} multiply to {product} or more; at most {MAX_COUNT}.",
                param=path,
            )
        place = grammar.find("{", place + 1)


# ---- words


def overview() -> str:
    """The table of docs/operating.md."""
    entries = ", ".join(f"`{name}` {most}" for name, most in MAX_ENTRIES.items())
    rows = (
        ("objects and lists within each other", MAX_DEPTH),
        ("objects, lists and numbers in all, lists of token ids not counted", MAX_VALUES),
        ("characters of `model`", MAX_MODEL_CHARACTERS),
        ("prompts times `n`", MAX_ANSWERS),
        (f"entries of {entries}", "as listed"),
        ("characters of the role of a message", MAX_ROLE_CHARACTERS),
        ("characters of each entry of `stop` and `bad_words`", MAX_STOP_CHARACTERS),
        ("entries of `stop_token_ids`, fewer beside `min_tokens`", MAX_STOP_TOKENS),
        ("entries of `allowed_token_ids`", MAX_ALLOWED_TOKENS),
        ("entries of `logit_bias`", MAX_BIASED_TOKENS),
        (
            "`repetition_penalty` beside a composition, where it is at least "
            f"{MIN_REPETITION_PENALTY:g}",
            f"{MAX_REPETITION_PENALTY:g}",
        ),
        ("bytes of a JSON schema", MAX_SCHEMA_BYTES),
        ("`minItems`, `maxLength` and the like", MAX_COUNT),
        ("properties of a schema, all objects together", MAX_PROPERTIES),
        ("entries of `enum`, `choice`, `anyOf` and the like", MAX_ALTERNATIVES),
        ("characters of a grammar or a regular expression", MAX_GRAMMAR_CHARACTERS),
        ("the same of a regular expression, its repetitions written out", MAX_PATTERN_LENGTH),
        ("repetitions of a grammar, multiplied", MAX_COUNT),
        ("members written down, before equal ones are merged", MAX_MEMBERS),
        ("experts of a mixture", MAX_EXPERTS),
        ("filters of a composition", MAX_FILTERS),
        ("characters of the name of a member", MAX_NAME),
        ("characters of a formula", MAX_LENGTH),
    )
    lines = ["| what | at most |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {most} |" for what, most in rows])


def _check_length(name: str, value: object, most: int) -> None:
    if isinstance(value, str) and len(value) > most:
        raise RequestBoundError(
            f"{name} has {len(value)} characters; at most {most}.", param=name.split()[-1]
        )


def _check_entries(name: str, value: object, most: int) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > most:
        raise RequestBoundError(
            f"{_short(name)} has {len(value)} entries; at most {most}.", param=_short(name)
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(path: str) -> str:
    return path if len(path) <= 100 else path[:60] + "..." + path[-30:]
