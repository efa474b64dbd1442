"""The bodies of `POST /v1/compose/score` and `POST /v1/compose/fit`, and what they share."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from composer.fields import Fields, Flag, ModelName, Number, TokenId
from server.engine.port import Kind

MAX_ITEMS = 1024
"""Texts in one request."""

MAX_COMPOSITIONS = 64
"""Compositions that score the same texts."""

Tokens = Annotated[list[TokenId], Field(min_length=1)]


class Beginning(Fields):
    """What stands before an answer."""

    prompt: Annotated[str, Field(min_length=1)] | Tokens | None = None
    """What the answer continues: text, or token ids."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    """In place of `prompt`: a conversation to answer."""

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self

    @property
    def kind(self) -> Kind:
        """Return the route that takes it."""
        return Kind.COMPLETION if self.messages is None else Kind.CHAT

    def beginning(self) -> dict[str, Any]:
        """Return the one field that a request has of the two."""
        if self.messages is not None:
            return {"messages": self.messages}
        return {"prompt": self.prompt}


class Item(Beginning):
    """A text to score: a completion, and what stands before it."""

    completion: Annotated[str, Field(min_length=1)] | Tokens
    """What is scored."""


class ScoreBody(Fields):
    """Texts, and the compositions that score them."""

    model: ModelName | None = None
    """The base, an adapter, a stored composition or a formula."""

    composition: Any = None
    """In place of `model`: a composition."""

    compositions: Annotated[list[Any], Field(min_length=1, max_length=MAX_COMPOSITIONS)] | None = (
        None
    )
    """In place of both: several, each a formula or a composition. Sums without filters share one
    pass of their members."""

    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    """The texts."""

    members: Flag = False
    """Whether to score the texts under every member alone as well."""

    divergences: Flag = False
    """Whether to compute how far the first of `compositions` is from each of the others: the
    Kullback-Leibler divergence in nats in front of every token. All must be sums without filters.
    """

    @model_validator(mode="after")
    def _one_way(self) -> ScoreBody:
        given = [v for v in (self.model, self.composition, self.compositions) if v is not None]
        if len(given) > 1:
            raise ValueError("give one of 'model', 'composition' and 'compositions'")
        if self.divergences and len(self.compositions or ()) < 2:
            raise ValueError(
                "'divergences' are those of the first of 'compositions' from the others; give at "
                "least two"
            )
        return self


class FitBody(Fields):
    """Examples, and a composition whose weights are to be found."""

    formula: Annotated[str, Field(min_length=1)] | None = None
    """A sum with free names, such as `chat + a*(polite - rude)`."""

    experts: Annotated[list[ModelName], Field(min_length=2)] | None = None
    """In place of `formula`: the experts of a mixture with fixed weights."""

    items: Annotated[list[Item], Field(min_length=2, max_length=MAX_ITEMS)]
    """Examples: what should be answered to what."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """Store the fitted composition under this name, if the search converges."""

    start: dict[str, Number] = Field(default_factory=dict)
    """Values of free names to start from; 0 by default."""

    bounds: dict[str, tuple[Number, Number]] = Field(default_factory=dict)
    """Lowest and highest value of free names; by default what the server allows."""

    held_out: Annotated[Number, Field(ge=0, le=0.8)] = 0.25
    """Share of the examples that are not learned from, but judge the result."""

    ridge: Annotated[Number, Field(ge=0, le=1e6)] = 1e-4
    """How strongly values are pulled towards the start: ridge/2 nats per token and unit squared."""

    @model_validator(mode="after")
    def _one_way(self) -> FitBody:
        if (self.formula is None) == (self.experts is None):
            raise ValueError("give either 'formula' or 'experts'")
        return self

    max_passes: Annotated[int, Field(strict=True, ge=1, le=50)] = 10
    """How often the examples are read at most."""
