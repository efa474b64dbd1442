"""What a member reads: the prompt of the request, or something else.

Prompts are values: two members are the same member when model and prompt are equal. What they
mean in tokens is settled by the front end, which knows the tokenizer and the chat template.

A prompt that is `private` computes the same and is never shown, neither in answers nor in errors:
it is of a stored composition that another key owns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class RequestPrompt:
    """The request's own prompt or messages."""


REQUEST = RequestPrompt()


@dataclass(frozen=True, slots=True)
class LastToken:
    """Only the last token of the request's prompt.

    The unconditional member of classifier-free guidance where no negative prompt is given, as in
    transformers' `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text, tokenized as it stands: no chat template."""

    text: str
    private: bool = False


@dataclass(frozen=True, slots=True)
class MessagesPrompt:
    """Chat messages as (role, content) pairs, rendered with the chat template."""

    messages: tuple[tuple[str, str], ...]
    private: bool = False


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids of the base model's tokenizer."""

    token_ids: tuple[int, ...]
    private: bool = False


@dataclass(frozen=True, slots=True)
class WithoutText:
    """The request's prompt or messages with every occurrence of `text` removed.

    The unconditional member of context-aware decoding. A request in which the text does not occur
    is the client's error, because the two members would be the same.
    """

    text: str
    private: bool = False


Prompt: TypeAlias = (
    RequestPrompt | LastToken | TextPrompt | MessagesPrompt | TokensPrompt | WithoutText
)

OwnPrompt: TypeAlias = TextPrompt | MessagesPrompt | TokensPrompt | WithoutText
"""Prompts that hold what their author wrote."""

_PRIVATE = "private"
"""What is shown of a private prompt."""

_ORDER = (RequestPrompt, LastToken, TextPrompt, MessagesPrompt, TokensPrompt, WithoutText)


def hidden(prompt: Prompt) -> Prompt:
    """The same prompt, private where it holds what its author wrote."""
    return replace(prompt, private=True) if isinstance(prompt, OwnPrompt) else prompt


def sort_key(prompt: Prompt) -> tuple[int, str]:
    """A total order over prompts, `RequestPrompt` first."""
    return _ORDER.index(type(prompt)), repr(prompt)


def label(prompt: Prompt) -> str:
    """The prompt in a few words, as formulas show it in brackets; empty for the request's own."""
    if isinstance(prompt, OwnPrompt) and prompt.private:
        return _PRIVATE
    match prompt:
        case RequestPrompt():
            return ""
        case LastToken():
            return "last token"
        case TextPrompt(text=text):
            return f"text {_excerpt(text)}"
        case MessagesPrompt(messages=messages):
            return f"messages {_excerpt(messages[-1][1])}" if messages else "messages"
        case TokensPrompt(token_ids=token_ids):
            return f"{len(token_ids)} token ids"
        case WithoutText(text=text):
            return f"without {_excerpt(text)}"


def describe(prompt: Prompt) -> str | dict[str, Any]:
    """The prompt as responses show it, JSON-able. Token ids are counted, not repeated."""
    if isinstance(prompt, OwnPrompt) and prompt.private:
        return _PRIVATE
    match prompt:
        case RequestPrompt():
            return "request"
        case LastToken():
            return "last token"
        case TextPrompt(text=text):
            return {"text": text}
        case MessagesPrompt(messages=messages):
            return {"messages": [{"role": role, "content": content} for role, content in messages]}
        case TokensPrompt(token_ids=token_ids):
            return {"token_ids": len(token_ids)}
        case WithoutText(text=text):
            return {"without": text}


def _excerpt(text: str, limit: int = 40) -> str:
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return json.dumps(shown, ensure_ascii=False)
