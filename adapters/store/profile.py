"""What an adapter is for, as its operator says: texts that a router compares prompts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.errors import ProfileError
from composer.errors import quoted

MOST_EXAMPLES = 2000
MOST_BYTES = 256 * 2**10
"""Of all texts together, in UTF-8: every change of the alias writes them into the journal."""

_FIELDS = ("examples", "description")


@dataclass(frozen=True, slots=True)
class Profile:
    """The texts of one alias. They stay when the alias gets new content."""

    examples: tuple[str, ...] | None = None
    """Prompts that the adapter is to answer; None: nothing is said."""

    description: str | None = None
    """What it is for, in a few words; None: nothing is said."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What a router compares prompts with: the examples, or else the description."""
        return self.examples or ((self.description,) if self.description else ())

    def over(self, before: Profile) -> Profile:
        """This profile, and of `before` what this one does not say."""
        return Profile(
            before.examples if self.examples is None else self.examples,
            before.description if self.description is None else self.description,
        )

    def to_json(self) -> dict[str, object]:
        """The object that `from_json` reads."""
        examples = None if self.examples is None else list(self.examples)
        return {"examples": examples, "description": self.description}

    @classmethod
    def from_json(cls, value: object) -> Profile:
        """The profile that `value` describes; nothing is said by a missing field.

        Raises:
            ProfileError: an unknown field, a value of the wrong type, or too much text.
        """
        if not isinstance(value, Mapping):
            raise ProfileError(
                f"a profile is a JSON object, not {type(value).__name__}. "
                f"Its fields are {' and '.join(_FIELDS)}.",
                param="profile",
            )
        for name in value:
            if name not in _FIELDS:
                raise ProfileError(
                    f"a profile has no field {quoted(str(name))}. "
                    f"Its fields are {' and '.join(_FIELDS)}.",
                    param="profile",
                )
        profile = cls(_examples(value.get("examples")), _description(value.get("description")))
        texts = (*(profile.examples or ()), profile.description or "")
        size = sum(len(text.encode(errors="surrogatepass")) for text in texts)
        if size > MOST_BYTES:
            raise ProfileError(
                f"the texts of the profile have {size} bytes; at most {MOST_BYTES} are kept. "
                "Give fewer or shorter examples: a few hundred short prompts do.",
                param="examples",
            )
        return profile


EMPTY_PROFILE = Profile()
"""Says nothing."""


def _examples(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ProfileError(
            f"examples is of the type {type(value).__name__}. Give a list of texts.",
            param="examples",
        )
    if len(value) > MOST_EXAMPLES:
        raise ProfileError(
            f"examples has {len(value)} texts; give at most {MOST_EXAMPLES}.", param="examples"
        )
    for place, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ProfileError(
                f"examples[{place}] is no text. Give prompts that the adapter is to answer.",
                param=f"examples[{place}]",
            )
    return tuple(value)


def _description(value: object) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise ProfileError(
            f"description is of the type {type(value).__name__}. Give a text.", param="description"
        )
    return value
