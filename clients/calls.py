"""Every call of the API, once: how its request looks and how its answer is read.

Nothing here touches the network; clients/client.py sends what these functions describe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from clients import errors
from clients.models import (
    ChatChunk,
    ChatCompletion,
    Completion,
    Model,
    ModelList,
    StoredComposition,
    StoredCompositionList,
)

R = TypeVar("R")
C = TypeVar("C")
M = TypeVar("M", bound=BaseModel)

Composition = str | Mapping[str, object]
"""A formula ("base + 0.8*polite") or the JSON object that `composition` takes."""


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One request. `path` is relative to the base URL, `body` a JSON value or None for no body."""

    method: str
    path: str
    body: Mapping[str, object] | str | None
    parse: Callable[[bytes], R]

    def read(self, status: int, body: bytes) -> R:
        """The answer.

        Raises:
            ApiError: the server answered with an error.
            InvalidResponse: the answer is not what the API documents.
        """
        if status >= 400:
            raise errors.from_response(status, body)
        if status >= 300:
            raise errors.InvalidResponse(f"{self.path} answered with a redirection ({status})")
        return self.parse(body)


@dataclass(frozen=True, slots=True)
class Generation(Call[R], Generic[R, C]):
    """A call whose answer can also come as a stream of chunks."""

    body: Mapping[str, object]
    parse_chunk: Callable[[bytes], C]

    def stream_body(self) -> dict[str, object]:
        """The body that asks for a stream, with the usage at its end."""
        return {"stream_options": {"include_usage": True}, **self.body, "stream": True}


def chat(
    messages: str | Sequence[Mapping[str, object]],
    *,
    model: str = "base",
    composition: Composition | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    n: int | None = None,
    logprobs: int | None = None,
    extra: Mapping[str, object] | None = None,
) -> Generation[ChatCompletion, ChatChunk]:
    """POST /chat/completions.

    Args:
        messages: {"role": ..., "content": ...} in order, or the text of one user message.
        model: the base model, an adapter, a stored composition or a formula.
        composition: what to compute instead of one model; see Composition.
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
    return Generation(
        "POST", "/chat/completions", body, _reader(ChatCompletion), _reader(ChatChunk)
    )


def complete(
    prompt: str | Sequence[int],
    *,
    model: str = "base",
    composition: Composition | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    n: int | None = None,
    logprobs: int | None = None,
    extra: Mapping[str, object] | None = None,
) -> Generation[Completion, Completion]:
    """POST /completions: text, or token ids, to be continued; the rest as in `chat`."""
    body = _body(
        {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "model": model,
            "composition": composition,
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
    return Generation("POST", "/completions", body, _reader(Completion), _reader(Completion))


def list_models() -> Call[tuple[Model, ...]]:
    """GET /models: the base model, the adapters and the stored compositions."""
    read = _reader(ModelList)
    return Call("GET", "/models", None, lambda body: read(body).data)


def list_compositions() -> Call[tuple[StoredComposition, ...]]:
    """GET /compositions."""
    read = _reader(StoredCompositionList)
    return Call("GET", "/compositions", None, lambda body: read(body).data)


def get_composition(name: str) -> Call[StoredComposition]:
    """GET /compositions/{name}."""
    return Call("GET", _composition_path(name), None, _reader(StoredComposition))


def put_composition(name: str, composition: Composition) -> Call[StoredComposition]:
    """PUT /compositions/{name}: store it, or replace what the name stands for."""
    return Call("PUT", _composition_path(name), composition, _reader(StoredComposition))


def delete_composition(name: str) -> Call[None]:
    """DELETE /compositions/{name}."""
    return Call("DELETE", _composition_path(name), None, lambda body: None)


def _composition_path(name: str) -> str:
    return f"/compositions/{quote(name, safe='')}"


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


def _reader(model: type[M]) -> Callable[[bytes], M]:
    def read(body: bytes) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise errors.InvalidResponse(
                f"the answer is no {model.__name__}: {place}: {first['msg']} (is the base URL "
                "that of this server, with /v1?)"
            ) from None

    return read
