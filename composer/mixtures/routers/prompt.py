"""Prompt router: weigh experts by the similarity of their examples to the request.

`pi_k ~ exp(-|h(x) - c_k|^2 / temperature)` (c-BTM, Gururangan et al. 2023, section 2.3; 0.1 as in
its section 3), where `h` is a TF-IDF vector and `c_k` the centre of the expert's examples: see
`composer.mixtures.tfidf`. The weights hold for the whole answer. The examples come with the
adapters, not with the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from composer.fields import Fields, Number
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import PROMPT_TEMPERATURE, PromptPrior, WeightedMixtureSpec

Temperature = Annotated[Number, Field(ge=1e-3, le=1e3)]


class PromptRouter(Fields):
    """pi_k ~ exp(-distance(prompt, centre of examples_k)^2 / temperature)"""

    kind: Literal["prompt"] = "prompt"
    """Name of the router."""

    temperature: Temperature = PROMPT_TEMPERATURE
    """Softness: a small value picks the nearest expert, a large one makes the weights equal."""


def build(fields: PromptRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    return WeightedMixtureSpec(prior=((PromptPrior(fields.temperature), 1.0),))


ROUTER = RouterKind(
    title="Prompt router",
    citation='Gururangan et al. 2023, "Scaling Expert Language Models with Unsupervised Domain '
    'Discovery", arXiv:2303.14177',
    fields=PromptRouter,
    build=build,
    example={"temperature": 0.1},
)
