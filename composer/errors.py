"""The errors of a composition, as one tree.

    ComposerError
    ├── CompositionError             the client's mistake: HTTP 400
    │   ├── FormulaSyntaxError       the formula cannot be read
    │   ├── CompositionSchemaError   the JSON has a wrong field, type or range
    │   ├── UnknownModelError        a member or filter names a model that is not served
    │   ├── WeightError              a weight is not finite, or too large
    │   ├── TooManyMembersError      more different members than allowed
    │   ├── EmptyCompositionError    the members cancel to nothing
    │   ├── NoRequestPromptError     no member reads the prompt of the request
    │   ├── PromptTooLongError       the prompt of a member does not fit the context
    │   ├── GangTooLargeError        the rows of the request do not fit the engine
    │   └── UnsupportedError         valid, but not with this option or this server
    └── EngineFault                  the server's fault: HTTP 500

Every message names the offending value and the remedy, because a client sees nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import ClassVar

MAX_NAMES_SHOWN = 20
_MAX_COMPARED = 200  # characters


class ComposerError(Exception):
    """Root of the tree.

    `code` is stable and meant for programs, `message` for people; `param` is the path of the
    offending field in the request, e.g. `composition.members[1].weight`, or None if unknown.
    """

    code: ClassVar[str] = "composer_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class CompositionError(ComposerError):
    """The requested composition cannot be computed."""

    code = "invalid_composition"


class FormulaSyntaxError(CompositionError):
    """The text is not a linear formula. `position` is an index of a character."""

    code = "formula_syntax"

    def __init__(self, message: str, *, position: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.position = position


class CompositionSchemaError(CompositionError):
    """The JSON value has an unknown field, or a value of the wrong type or range."""

    code = "composition_schema"


class UnknownModelError(CompositionError):
    """A name does not belong to any served model. The message lists the served names."""

    code = "model_not_found"

    def __init__(self, name: str, known: Collection[str], *, param: str | None = None) -> None:
        nearest = _nearest(name, known)
        advice = f"; did you mean {quoted(nearest)}?" if nearest else "."
        super().__init__(
            f"model {quoted(name)} is not served here{advice} Use one of: {listing(known)}.",
            param=param,
        )
        self.name = name


class WeightError(CompositionError):
    """A weight is not a finite number, or its magnitude exceeds the limit."""

    code = "invalid_weight"


class TooManyMembersError(CompositionError):
    """The members that remain after merging equal ones exceed the limit."""

    code = "too_many_members"


class EmptyCompositionError(CompositionError):
    """No member with a weight other than zero remains."""

    code = "empty_composition"


class NoRequestPromptError(CompositionError):
    """Every member has its own prompt, so none would answer the request."""

    code = "no_request_prompt"


class PromptTooLongError(CompositionError):
    """The prompt of a member, with the tokens to generate, exceeds the model's context."""

    code = "context_length_exceeded"


class GangTooLargeError(CompositionError):
    """The rows of one request can never be scheduled together."""

    code = "group_too_large"


class UnsupportedError(CompositionError):
    """Well formed, but not supported with another option of the request or of this server."""

    code = "unsupported"


class EngineFault(ComposerError):
    """A failure that the client cannot fix."""

    code = "engine_fault"


def quoted(value: str, limit: int = 80) -> str:
    """Return `value` as messages show it: quoted, on one line, at most `limit` characters."""
    shown = value if len(value) <= limit else value[: limit - 1] + "…"
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + "'"


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None if none is similar.

    Comparing takes more than linear time, so names longer than any model's are not compared.
    """
    if len(name) > _MAX_COMPARED:
        return None
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def _nearest(name: str, known: Collection[str]) -> str | None:
    # A formula parses the unquoted name `code-v2` as `code` minus `v2`, so a prefix counts, too.
    longer = (other for other in sorted(known) if name and other.startswith(name))
    return nearest_name(name, known) or next(longer, None)


def listing(known: Collection[str]) -> str:
    """Return names as messages show them: sorted, quoted, at most `MAX_NAMES_SHOWN`."""
    names = sorted(known)
    shown = ", ".join(quoted(name) for name in names[:MAX_NAMES_SHOWN])
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
