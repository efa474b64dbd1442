"""Texts that an adapter finds likelier than the base does, with their log-probabilities under both.

Contrastive Generative Exploration: Isonuma and Titov 2025, "What's New in My Data? Novelty
Exploration via Contrastive Generation", arXiv:2410.14765. Texts are sampled from

    log p_adapter + weight * (log p_adapter - log p_base)

among the tokens that the adapter finds plausible: at least `plausibility` times as probable as its
likeliest one (Li et al. 2022, arXiv:2210.15097; misonuma/cge takes 0.1, too). The code of the paper
samples from the difference alone; with the adapter itself before it, small models stay fluent. This
is the paper's static variant: the iterative one trains the base on every text found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.cli.exploring.openings import Opening
from clients.cli.local_work import Step

if TYPE_CHECKING:
    from clients.client import Client

BATCH = 32
"""Texts of one request to score."""

AT_ONCE = 4
"""Requests under way at the same time."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """What is compared, and how texts are sampled from it."""

    adapter: str
    base: str
    weight: float
    plausibility: float
    temperature: float
    max_tokens: int
    seed: int

    def composition(self) -> dict[str, object]:
        """Return the composition to sample from."""
        return {
            "recipe": "contrastive",
            "expert": self.adapter,
            "amateur": self.base,
            "beta": self.weight,
            "plausibility": self.plausibility,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """A text of T tokens and its log-probabilities under the adapter and under the base."""

    opening: Opening
    text: str
    tokens: tuple[str, ...]  # [T]
    tuned: tuple[float, ...]  # [T]
    base: tuple[float, ...]  # [T]

    @property
    def gains(self) -> list[float]:
        """How much likelier the adapter finds each token, in nats, `[T]`."""
        return [t - b for t, b in zip(self.tuned, self.base, strict=True)]

    @property
    def gain(self) -> float:
        """Their mean."""
        return sum(self.gains) / len(self.gains)


def draw(
    client: Client, contrast: Contrast, begin: Sequence[Opening], count: int, step: Step
) -> list[Sample]:
    """Sample `count` texts, as many from each opening as from any other, and score them."""
    shares = [count // len(begin) + (n < count % len(begin)) for n in range(len(begin))]
    found: list[tuple[Opening, str, tuple[int, ...]]] = []
    work = [
        (b, share, contrast.seed + n)
        for n, (b, share) in enumerate(zip(begin, shares, strict=True))
        if share
    ]

    def ask(job: tuple[Opening, int, int]) -> list[tuple[Opening, str, tuple[int, ...]]]:
        return list(_texts(client, contrast, *job))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for answers in pool.map(ask, work):
            found += answers
            step(len(found), 2 * count, "sample")
    samples: list[Sample] = []
    for start in range(0, len(found), BATCH):
        samples += _scored(client, contrast, found[start : start + BATCH])
        step(count + len(samples), 2 * count, "score")
    return samples


def _texts(
    client: Client, contrast: Contrast, begin: Opening, count: int, seed: int
) -> Iterator[tuple[Opening, str, tuple[int, ...]]]:
    """Yield sampled texts and their token ids."""
    how: dict[str, Any] = {
        "composition": contrast.composition(),
        "max_tokens": contrast.max_tokens,
        "temperature": contrast.temperature,
        "n": count,
        "seed": seed,
        "extra": {"return_token_ids": True},
    }
    if begin.plain:
        for continued in client.complete(begin.text, **how).choices:
            yield begin, continued.text, continued.token_ids or ()
    else:
        for answer in client.chat(begin.text, **how).choices:
            yield begin, answer.message.content or "", answer.token_ids or ()


def _scored(
    client: Client,
    contrast: Contrast,
    found: Sequence[tuple[Opening, str, tuple[int, ...]]],
) -> Iterator[Sample]:
    both = [{"model": name, "weight": 0.5} for name in (contrast.adapter, contrast.base)]
    items = [{**begin.item(), "completion": list(ids)} for begin, _, ids in found]
    scored = client.score(items, composition={"members": both}, members=True)
    for (begin, text, _), item in zip(found, scored.data, strict=True):
        of = {member.model: member.token_logprobs for member in item.members}
        yield Sample(begin, text, item.tokens, of[contrast.adapter], of[contrast.base])
