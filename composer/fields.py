"""The base of all models of JSON values: unknown fields are errors, and nothing is coerced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from composer.errors import CompositionSchemaError, nearest_name, quoted

UNKNOWN_FIELD = "unknown_field"
"""Type of the pydantic error for a field that a model does not have.

Its context has the index among the object's keys instead of the key, which need not be valid
Unicode.
"""

BASE = "base"
"""The name of the base model without an adapter, which no adapter may take."""

MAX_NAME = 512
"""Maximum length of a model's name, in characters."""

MODEL_SEPARATOR = ":"
"""Between an auxiliary model and its adapter, as in `small:chat`."""

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]

# Strict, because pydantic otherwise reads true as 1 and "0.8" as 0.8.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0)]

MAX_MEMBERS = 256
"""Maximum number of members in a request; equal members are merged before rows are counted."""

MAX_EXPERTS = 1000
"""Maximum number of experts in a mixture, of which a router lets a few run."""

MAX_FILTERS = 64
"""Maximum number of filters in a composition."""

MAX_MESSAGES = 1024
"""Maximum number of messages in a member's own prompt."""


class Fields(BaseModel):
    """A JSON object. The docstrings of its fields are their descriptions in the API's schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, value: Any) -> Any:
        # Before `extra="forbid"`, whose message does not list the fields that exist.
        if not isinstance(value, Mapping) or value.keys() <= cls.model_fields.keys():
            return value
        position, unknown = next(
            (n, str(key)) for n, key in enumerate(value) if key not in cls.model_fields
        )
        nearest = nearest_name(unknown, cls.model_fields)
        advice = f"did you mean {quoted(nearest)}?" if nearest else "remove it."
        raise PydanticCustomError(
            UNKNOWN_FIELD,
            "{advice} The fields are: {fields}",
            {"position": position, "advice": advice, "fields": ", ".join(cls.model_fields)},
        )


class Message(Fields):
    """A chat message."""

    role: Annotated[str, Field(min_length=1)]
    """Role in the chat template: `system`, `user` or `assistant`."""

    content: str
    """The text."""


def untuned(field: str, name: str, partner: str) -> str:
    """Return the model that an adapter is of: `small` for `small:chat`, else the base.

    Args:
        field: names the model in the request.
        name: the model.
        partner: the field that may name its untuned partner.

    Raises:
        CompositionSchemaError: the model is the base, which is no adapter.
    """
    if name == BASE:
        raise CompositionSchemaError(
            f"'{field}' is the base, which is not tuned, so it has no untuned partner. Name an "
            f"adapter, or the model before tuning as '{partner}'."
        )
    return name.partition(MODEL_SEPARATOR)[0] if MODEL_SEPARATOR in name else BASE


def pairs(messages: list[Message]) -> tuple[tuple[str, str], ...]:
    """Return messages in the form of `MessagesPrompt`."""
    return tuple((message.role, message.content) for message in messages)


def constant(fields: type[Fields], name: str) -> str:
    """Return the only value that a field may have, declared as `Literal[...]`."""
    value: str
    (value,) = get_args(fields.model_fields[name].annotation)
    return value
