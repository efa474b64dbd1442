"""What all models of JSON values share: nothing is accepted and ignored, nothing is coerced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from composer.errors import nearest_name, quoted

UNKNOWN_FIELD = "unknown_field"
"""Type of the pydantic error for a field that a model does not have.

Its context gives the position among the object's keys: the key itself may be no valid Unicode.
"""

BASE = "base"
"""The name of the base model without an adapter, which no adapter may take."""

MAX_NAME = 512
"""Characters of the name of a model."""

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]

# Strict, for otherwise pydantic takes true for 1 and "0.8" for 0.8.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0)]


MAX_MEMBERS = 256
"""Members that a request may write down; equal ones are merged before they are counted as rows."""

MAX_EXPERTS = 1000
"""Experts of a mixture, of which a router lets a few run."""

MAX_FILTERS = 64
"""Filters of a composition."""

MAX_MESSAGES = 1024
"""Messages of a prompt of a member's own."""


class Fields(BaseModel):
    """A JSON object. The docstrings of attributes are their descriptions in the API's schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, value: Any) -> Any:
        # Before `extra="forbid"` would: that one cannot tell which fields there are.
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
    """Who speaks, as the chat template knows it: `system`, `user` or `assistant`."""

    content: str
    """The text."""


def pairs(messages: list[Message]) -> tuple[tuple[str, str], ...]:
    """Messages as `MessagesPrompt` holds them."""
    return tuple((message.role, message.content) for message in messages)


def constant(fields: type[Fields], name: str) -> str:
    """Return the only value that a field may have, declared as `Literal[...]`."""
    value: str
    (value,) = get_args(fields.model_fields[name].annotation)
    return value
