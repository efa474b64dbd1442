"""Calls that generate text, and the list of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from clients import errors
from clients.call import Call, GenerationCall, reader
from clients.responses import (
    Answer,
    ChatChunk,
    ChatCompletion,
    Completion,
    Model,
    ModelList,
)

A = TypeVar("A", bound=Answer)
B = TypeVar("B", bound=Answer)

EXPECT = "X-Composer-Expect"
"""Header that makes the server refuse a request without a composition."""

_COMPOSITION = "composition"

Composition = str | Mapping[str, object]
"""A formula ("base + 0.8*polite") or the JSON object that `composition` takes."""


def chat(
    messages: str | Sequence[Mapping[str, object]],
    *,
    model: str = "base",
    composition: Composition | None = None,
    compare: bool | None = None,
    explain: bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    n: int | None = None,
    logprobs: int | None = None,
    extra: Mapping[str, object] | None = None,
) -> GenerationCall[ChatCompletion, ChatChunk]:
    """POST /chat/completions.

    Args:
        messages: {"role": ..., "content": ...} in order, or the text of a single user message.
        model: the base model, an adapter, a stored composition, a formula, or "auto" for the
            adapter that the server chooses.
        composition: what to compute in place of a single model; see `Composition`.
        compare: answer with each model of the composition alone as well; not in streams.
        explain: tell what every member thought of each token of the answer.
        logprobs: report log-probabilities of the answer's tokens, and this many alternatives each.
        extra: further fields of the body, from OpenAI's API or vLLM's.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    alternatives = {} if logprobs is None else {"logprobs": True, "top_logprobs": logprobs}
    body = _body(
        {
            "messages": list(messages),
            "model": model,
            "composition": composition,
            "compare": compare,
            "explain": explain,
        },
        {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k},
        {"seed": seed, "stop": stop, "n": n, **alternatives},
        extra=extra,
    )
    return _generation("/chat/completions", body, ChatCompletion, ChatChunk)


def complete(
    prompt: str | Sequence[int],
    *,
    model: str = "base",
    composition: Composition | None = None,
    compare: bool | None = None,
    explain: bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    n: int | None = None,
    logprobs: int | None = None,
    extra: Mapping[str, object] | None = None,
) -> GenerationCall[Completion, Completion]:
    """POST /completions: continue a text or token ids; the other arguments are those of `chat`."""
    text = prompt if isinstance(prompt, str) else list(prompt)
    body = _body(
        {"prompt": text, "model": model, "composition": composition},
        {"compare": compare, "explain": explain},
        {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k},
        {"seed": seed, "stop": stop, "n": n, "logprobs": logprobs},
        extra=extra,
    )
    return _generation("/completions", body, Completion, Completion)


def list_models() -> Call[tuple[Model, ...]]:
    """GET /models: the base model, the adapters and the stored compositions."""
    read = reader(ModelList)
    return Call("GET", "/models", None, lambda body: read(body).data)


def _generation(
    path: str, body: Mapping[str, object], answer: type[A], chunk: type[B]
) -> GenerationCall[A, B]:
    """Return a call that fails if its composition gets lost on the way.

    A gateway may drop a field that it does not know, so that the base model alone would answer.
    The header makes the server refuse such a request. A server that does not know the header would
    answer without a report of the composition, which is an error as well.
    """
    read, read_chunk = reader(answer), reader(chunk)
    if body.get(_COMPOSITION) is None:
        return GenerationCall("POST", path, body, read, read_chunk, read_chunk)
    return GenerationCall(
        "POST",
        path,
        body,
        _composed(read),
        read_chunk,
        _composed(read_chunk),
        headers={EXPECT: _COMPOSITION},
    )


def _composed(read: Callable[[bytes], A]) -> Callable[[bytes], A]:
    def read_composed(body: bytes) -> A:
        answer = read(body)
        if answer.composition is None:
            raise errors.CompositionLost(
                "the answer does not report a composition: something between this client and "
                "the server dropped the field 'composition', or the server does not know it. "
                "Name a formula or a stored composition as the model instead"
            )
        return answer

    return read_composed


def _body(*groups: Mapping[str, object], extra: Mapping[str, object] | None) -> dict[str, object]:
    """Return the fields that have a value.

    Raises:
        ValueError: `extra` repeats a field, so that one of the two values would be ignored.
    """
    fields = {name: value for group in groups for name, value in group.items() if value is not None}
    twice = sorted((fields.keys() | {"stream"}) & (extra or {}).keys())
    if twice:
        raise ValueError(f"extra repeats {', '.join(twice)}; give each field once")
    return {**fields, **(extra or {})}
