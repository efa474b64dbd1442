"""From JSON values to pydantic models, with errors that a client can act upon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from composer.errors import ComposerError, CompositionSchemaError, quoted
from composer.fields import UNKNOWN_FIELD

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")

# "Input should be a valid number", "List should have at least 1 item after validation, not 0"
_WORDING = re.compile(r"^(Input|String|List|Tuple) should | after validation, not \d+$")

_WORDS = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "be an object"),
    "tuple_type": "be a valid list",
}
"""Types of pydantic errors whose texts name Python's types -> the words of JSON."""

_Path: TypeAlias = tuple[str | int, ...]


def validate(
    model: type[T] | TypeAdapter[T],
    value: object,
    param: str,
    error_type: type[ComposerError] = CompositionSchemaError,
    *,
    shows_values: bool = True,
) -> T:
    """Validate `value`, found at `param` in the request, as a pydantic model.

    Raises:
        ComposerError: an `error_type` that names the field, its value if `shows_values`, and what
            the value should be.
    """
    read: Callable[[object], T] = (
        model.validate_python if isinstance(model, TypeAdapter) else cast(Any, model).model_validate
    )
    try:
        return read(value)
    except ValidationError as error:
        where, problem = _explain(error.errors(include_url=False), value, param, shows_values)
        raise error_type(problem, param=where or None) from error


def shown(value: object) -> str:
    """Return a JSON value as error messages show it: short, and containers by their size."""
    match value:
        case str():
            return quoted(value)
        case Mapping():
            return "an object with " + (", ".join(map(quoted, map(str, value))) or "no fields")
        case list() | tuple():
            return f"a list of {len(value)}"
        case int() if abs(value) >= 10**20:
            return "an integer of more than 20 digits"
        case bool() | int() | float() | None:
            return json.dumps(value)
        case _:
            return f"a {type(value).__name__}"


def _explain(
    details: Sequence[ErrorDetails], value: object, param: str, shows_values: bool
) -> tuple[str, str]:
    """Return the path of the field to report, and the message.

    Reported is the first field with an error; of several errors in it, the innermost ones. For a
    field that takes values of several types, pydantic lists one error for each type.
    """
    located = [(_path(detail, value), detail) for detail in details]
    field = located[0][0][:1]
    path = max((p for p, _ in located if p[:1] == field), key=len)
    same = [detail for p, detail in located if p == path]
    where = (param + "".join(map(_step, path))).removeprefix(".")
    return where, _message(where or "the body", same, shows_values) + "."


def _path(detail: ErrorDetails, value: object) -> _Path:
    """Return the path of the error in `value`, without the tags that pydantic inserts.

    The tag of an object with a `kind` is its kind, which may equal the name of one of its fields.
    """
    path: list[str | int] = []
    tagged: object = None  # the object whose tag has been skipped
    for key in detail["loc"]:
        if isinstance(value, Mapping) and value is not tagged and key == value.get("kind"):
            tagged = value
            continue
        if isinstance(value, Mapping) and key in value:
            value = value[str(key)]
        elif isinstance(value, Sequence) and isinstance(key, int) and key < len(value):
            value = value[key]
        elif not (detail["type"] == "missing" and key == detail["loc"][-1]):
            continue
        path.append(key)
    if detail["type"] == UNKNOWN_FIELD and isinstance(value, Mapping):
        path.append(str(list(value)[detail["ctx"]["position"]]))
    return tuple(path)


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    # A client's key may be any string, even one that UTF-8 cannot encode.
    return f".{key}" if len(key) <= 40 and key.isidentifier() else f"[{quoted(key)}]"


def _message(where: str, details: Sequence[ErrorDetails], shows_values: bool) -> str:
    first = details[0]
    match first["type"]:
        case "missing":
            return f"{where} is missing; give it a value"
        case "unknown_field":
            return f"{where} is not a field; {first['msg']}"
        case "unexpected_keyword_argument":  # of a dataclass
            return f"{where} is not a field; remove it"
        case "value_error":
            return f"{where}: {first['ctx']['error']}"
        case _:
            expected = dict.fromkeys(
                _WORDS.get(detail["type"]) or _WORDING.sub("", detail["msg"]) for detail in details
            )
            subject = f"{where} is {shown(first['input'])}; it" if shows_values else where
            return f"{subject} should {' or '.join(expected)}"
