"""Every call of the API, once; adapters and stored compositions have files of their own."""

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
"""Header that makes the server refuse a request that composes nothing."""

_COMPOSITION = "composition"

Composition = str | Mapping[str, object]
"""A formula ("base + 0.8*polite") or the JSON object that `composition` takes."""


def chat(
    messages: str | Sequence[Mapping[str, object]],
    *,
    model: str = "base",
    composition: Composition | None = None,
    compare: bool | None = None,
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
        messages: {"role": ..., "content": ...} in order, or the text of one user message.
        model: the base model, an adapter, a stored composition, a formula, or "auto": the server
            chooses the adapter.
        composition: what to compute instead of one model; see Composition.
        compare: ask each model of the composition alone as well; not for streams.
        logprobs: log-probabilities of the answer's tokens and of this many alternatives each.
        extra: further fields of the body, of OpenAI's API or vLLM's.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    wants_logprobs = {} if logprobs is None else {"logprobs": True, "top_logprobs": logprobs}
    body = _body(
        {
            "messages": list(messages),
            "model": model,
            "composition": composition,
            "compare": compare,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "stop": stop,
            "n": n,
            **wants_logprobs,
        },
        extra,
    )
    return _generation("/chat/completions", body, ChatCompletion, ChatChunk)


def complete(
    prompt: str | Sequence[int],
    *,
    model: str = "base",
    composition: Composition | None = None,
    compare: bool | None = None,
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
    """POST /completions: text, or token ids, to be continued; the rest as in `chat`."""
    body = _body(
        {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "model": model,
            "composition": composition,
            "compare": compare,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "stop": stop,
            "n": n,
            "logprobs": logprobs,
        },
        extra,
    )
    return _generation("/completions", body, Completion, Completion)


def list_models() -> Call[tuple[Model, ...]]:
    """GET /models: the base model, the adapters and the stored compositions."""
    read = reader(ModelList)
    return Call("GET", "/models", None, lambda body: read(body).data)


def _generation(
    path: str, body: Mapping[str, object], answer: type[A], chunk: type[B]
) -> GenerationCall[A, B]:
    """The call, which fails where a composition gets lost on the way.

    A gateway may drop a field that it does not know, and the base alone would answer. So the
    header makes this server refuse such a request, and an answer without a report is no answer: it
    may come from a server that does not know the header.
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
                "the answer does not say that it was composed: something between this client and "
                "the server dropped the field 'composition', or the server does not know it. "
                "Name a formula or a stored composition as the model instead"
            )
        return answer

    return read_composed


def _body(fields: Mapping[str, object], extra: Mapping[str, object] | None) -> dict[str, object]:
    """The fields that were given.

    Raises:
        ValueError: `extra` repeats a field, so that one of the two values would be ignored.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    twice = sorted((given.keys() | {"stream"}) & (extra or {}).keys())
    if twice:
        raise ValueError(f"extra repeats {', '.join(twice)}; give each field once")
    return {**given, **(extra or {})}
