"""What an adapter is for, in the words of its operator: texts that routers compare prompts with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, model_validator

from adapters.errors import ProfileError
from composer.fields import Fields
from composer.validation import shown, validate

MAX_EXAMPLES = 2000
MAX_PROFILE_BYTES = 256 * 2**10
"""Of all texts together, in UTF-8: every change of the alias writes them into the journal."""


# pydantic's own `str` refuses lone surrogates, which JSON can hold and old journals may.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it is {shown(value)}; give a text")
    return value


def _prompt(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it is not a text; give a prompt that the adapter is to answer")
    return value


_Prompt = Annotated[str, PlainValidator(_prompt, json_schema_input_type=str)]
Examples = Annotated[tuple[_Prompt, ...], Field(max_length=MAX_EXAMPLES)] | None
Description = Annotated[str, PlainValidator(_text, json_schema_input_type=str)] | None


class Profile(Fields):
    """The texts of one alias. They stay when the alias gets new content."""

    examples: Examples = None
    """Prompts that the adapter is to answer; null leaves the examples as they are."""

    description: Description = None
    """What the adapter is for, in a few words; null leaves the description as it is."""

    @model_validator(mode="after")
    def _check_size(self) -> Profile:
        texts = (*(self.examples or ()), self.description or "")
        size = sum(len(text.encode(errors="surrogatepass")) for text in texts)
        if size > MAX_PROFILE_BYTES:
            raise ProfileError(
                f"the texts of the profile have {size} bytes; at most {MAX_PROFILE_BYTES} are "
                "kept. Give fewer or shorter examples: a few hundred short prompts do.",
                param="examples",
            )
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what routers compare prompts with: the examples, or else the description."""
        return self.examples or ((self.description,) if self.description else ())

    def merged_over(self, before: Profile) -> Profile:
        """Return this profile, with the fields of `before` where this one has null."""
        return before.model_copy(update=self.model_dump(exclude_none=True))

    @classmethod
    def from_json(cls, value: object, param: str = "profile") -> Profile:
        """Read the JSON object at `param` of the request. Raises `ProfileError`."""
        return validate(cls, value, param, ProfileError)


EMPTY_PROFILE = Profile()
