"""What lm_eval should find: each of its requests computed by transformers and PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from bench.lm_eval.harness import MAX_LENGTH, Scored
from bench.loop import Loop
from composer.engine_plan import MixtureParameters
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle, OracleRow
from experts import ADAPTERS
from experts.base_model import base_model

WINDOW = MAX_LENGTH - 2
"""Tokens of a page that lm_eval scores at once: it keeps room for an answer and for the token
before them."""


@dataclass(frozen=True, slots=True)
class Composition:
    """Members (weight, adapter; None is the base), summed or mixed."""

    members: tuple[tuple[float, str | None], ...]
    mixture: MixtureParameters | None = None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-likelihood of `tokens` tokens, in nats, and whether each is the likeliest."""

    logprob: float
    greedy: bool
    tokens: int


def likelihood(
    oracle: Oracle, tokenizer: Any, composition: Composition, request: Scored
) -> Likelihood:
    """Return the log-likelihood of a request's text."""
    if request.context is None:
        parts = list(page_windows(_encode(tokenizer, request.text), tokenizer.bos_token_id))
    else:
        assert request.context == request.context.rstrip(), "lm_eval would move spaces to the text"
        ids = _encode(tokenizer, request.context + request.text)
        start = len(_encode(tokenizer, request.context))
        parts = [(ids, start)]
    scores = [_scores(oracle, composition, ids)[start - 1 :] for ids, start in parts]
    of_text, best = torch.cat(scores).unbind(1)
    is_greedy = bool((of_text == best).all())
    return Likelihood(float(of_text.sum()), is_greedy, len(of_text))


def page_windows(tokens: Sequence[int], prefix: int) -> Iterator[tuple[list[int], int]]:
    """Yield token ids and where their scored part begins, for a page of any length.

    Windows of `WINDOW` scored tokens follow each other, each after the token before it. The last
    one, which is shorter, reads as many tokens before it as there is room for.
    """
    ends = [*range(0, len(tokens), WINDOW), len(tokens)]
    for begin, end in pairwise(ends):
        first = 0 if begin == 0 else max(0, end - WINDOW - 1)
        read = [prefix, *tokens[:end]] if begin == 0 else list(tokens[first:end])
        yield read, len(read) - (end - begin)


def generate(loop: Loop, tokenizer: Any, prompt: str, max_tokens: int, until: Sequence[str]) -> str:
    """Return the greedy text before the end of the turn and before each of `until`."""
    answer = loop.greedy(_encode(tokenizer, prompt), max_tokens)
    if tokenizer.eos_token_id in answer:
        answer = answer[: answer.index(tokenizer.eos_token_id)]
    text = str(tokenizer.decode(answer, skip_special_tokens=True))
    return min((text.partition(stop)[0] for stop in until), key=len, default=text)


def loop_of(composition: Composition) -> Loop:
    """Return a loop over a composition's models, one per member."""
    return Loop(
        base_model(), [(w, None if a is None else ADAPTERS[a]) for w, a in composition.members]
    )


def _scores(oracle: Oracle, composition: Composition, ids: Sequence[int]) -> torch.Tensor:
    """Return `[len(ids) - 1, 2]` float64: the log-probability of every token but the first, and of
    the likeliest in its place."""
    rows = [OracleRow(weight, adapter, (ids[0],)) for weight, adapter in composition.members]
    if composition.mixture is not None:
        z, _ = mixed(oracle, rows, composition.mixture, ids[1:])
    else:
        z = oracle.composed(rows, (), ids[1:])
    log_probs = z[:-1].double().log_softmax(1)
    of_text = log_probs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    return torch.stack((of_text, log_probs.max(1).values), 1)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
