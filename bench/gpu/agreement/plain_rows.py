"""Oracles whose members are plain requests to vLLM: against them shows what composing changes.

In bfloat16 rounding alone changes answers, so that a float32 oracle cannot judge them. Here vLLM
computes each member as plain requests over the same tokens, and `composer.reference` composes them
outside of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch

from bench.inprocess import InProcessEngine, Job
from composer.reference.oracle import Oracle

Engines = Mapping[str | None, InProcessEngine]
"""The engine of the base model (None), and one for each auxiliary model, with `max_logprobs=-1`."""

Text = tuple[str | None, tuple[int, ...], str | None]
"""Adapter, tokens and model."""


class Reading(StrEnum):
    """How plain requests read a text; the kernels of each way round differently."""

    TOKEN_BY_TOKEN = "token by token"
    """One request for every beginning of the text."""

    AT_ONCE = "at once"
    """One request with `prompt_logprobs`."""


class PlainRows(Oracle):
    """Members by vLLM, with log-probabilities for logits: a constant apart for each token."""

    def __init__(self, engines: Engines, reading: Reading = Reading.TOKEN_BY_TOKEN) -> None:
        self._engines = engines
        self._reading = reading
        self._known: dict[Text, torch.Tensor] = {}

    def logits(
        self, adapter: str | None, tokens: Sequence[int], model: str | None = None
    ) -> torch.Tensor:
        """Return `[T, v]` float32: the log-probabilities of one member after each of `tokens`."""
        text = (adapter, tuple(tokens), model)
        if text not in self._known:
            self._known[text] = self._read(*text)
        return self._known[text]

    def decode(
        self, adapter: str | None, prompt: tuple[int, ...], model: str | None, length: int
    ) -> tuple[torch.Tensor, list[int]]:
        """Return a plain request's log-probabilities `[length, v]` and its greedy answer."""
        job = self._job(adapter, prompt, model, length)
        [output] = self._engines[model].run([job])
        return as_tensor(output.outputs[0].logprobs), list(output.outputs[0].token_ids)

    def forget(self) -> None:
        """Free the memory of what has been computed."""
        self._known.clear()

    def _read(
        self, adapter: str | None, tokens: tuple[int, ...], model: str | None
    ) -> torch.Tensor:
        engine = self._engines[model]
        if self._reading is Reading.AT_ONCE:
            [output] = engine.run([self._job(adapter, tokens, model, prompt_logprobs=-1)])
            before = (output.prompt_logprobs or [])[1:]  # nothing predicts the first token
            return as_tensor([*before, *(output.outputs[0].logprobs or [])])
        beginnings = [tokens[:length] for length in range(1, len(tokens) + 1)]
        outputs = engine.run(self._job(adapter, text, model) for text in beginnings)
        return torch.cat([as_tensor(output.outputs[0].logprobs) for output in outputs])

    def _job(
        self,
        adapter: str | None,
        prompt: tuple[int, ...],
        model: str | None,
        max_tokens: int = 1,
        **params: Any,
    ) -> Job:
        loaded = self._engines[model].adapters[adapter] if adapter is not None else None
        params |= {"max_tokens": max_tokens, "logprobs": -1, "detokenize": False}
        return Job(prompt, adapter=loaded, params=params)


class NoisyRows(Oracle):
    """The same members with vLLM's own noise: how plain decoding rounds.

    A plain request cannot be made to decode a given text. So every member decodes an answer of its
    own after the same prompt, and what it shows there differently from `rows` is added to `rows`:
    from the token of one rank to that of the same rank, as the size of a logit decides its
    rounding. Composed, this is the noise carried through the method.
    """

    def __init__(self, rows: PlainRows, length: int) -> None:
        self._rows = rows
        self._length = length

    def logits(
        self, adapter: str | None, tokens: Sequence[int], model: str | None = None
    ) -> torch.Tensor:
        """Return `[T, v]` float32, of which the last `length` tokens are an answer."""
        exact = self._rows.logits(adapter, tokens, model)
        noise = self._noise(adapter, tuple(tokens[: -self._length]), model)
        start = len(exact) - 1 - len(noise)
        noisy = exact[start:-1]
        noisy = noisy.scatter_add(1, noisy.argsort(dim=-1, descending=True), noise)
        return torch.cat([exact[:start], noisy, exact[-1:]])

    def _noise(
        self, adapter: str | None, prompt: tuple[int, ...], model: str | None
    ) -> torch.Tensor:
        """Return `[length, v]` float32: the differences by rank, likeliest token first."""
        decoded, answer = self._rows.decode(adapter, prompt, model, self._length)
        exact = self._rows.logits(adapter, (*prompt, *answer), model)[len(prompt) - 1 : -1]
        return (decoded - exact).gather(1, exact.argsort(dim=-1, descending=True))


def as_tensor(positions: Any) -> torch.Tensor:
    """Return vLLM's log-probabilities of the whole vocabulary as `[T, V]` float32."""
    return torch.tensor(
        [[shown[token].logprob for token in range(len(shown))] for shown in positions]
    )
