"""What all models of JSON values share: nothing is accepted and ignored, nothing is coerced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from composer.errors import nearest_name, quoted

UNKNOWN_FIELD = "unknown_field"
"""Type of the pydantic error for a field that a model does not have.

Its context gives the position among the object's keys: the key itself may be no valid Unicode.
"""

ModelName = Annotated[str, Field(min_length=1)]

# Strict, for otherwise pydantic takes true for 1 and "0.8" for 0.8.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0)]


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
