"""What a member reads: the prompt of the request, or another one.

Prompts are values: two members are equal if their models and prompts are equal. The front end,
which has the tokenizer and the chat template, turns prompts into tokens.

A `private` prompt belongs to a stored composition of another key: it computes the same, but neither
answers nor errors show it.
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

    The unconditional member of classifier-free guidance without a negative prompt, as in
    transformers' `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text, tokenized without a chat template."""

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
    """The request's prompt or messages with every occurrence of `text` removed, and the blank after
    each: white space that would otherwise begin what follows.

    The unconditional member of context-aware decoding. A request without the text is a client's
    error, because the two members would be equal.
    """

    text: str
    private: bool = False


Prompt: TypeAlias = (
    RequestPrompt | LastToken | TextPrompt | MessagesPrompt | TokensPrompt | WithoutText
)

OwnPrompt: TypeAlias = TextPrompt | MessagesPrompt | TokensPrompt | WithoutText
"""Prompts that contain text of their author."""

_PRIVATE = "private"
"""Replaces a private prompt in answers and errors."""

_ORDER = (RequestPrompt, LastToken, TextPrompt, MessagesPrompt, TokensPrompt, WithoutText)


def hidden(prompt: Prompt) -> Prompt:
    """Return the same prompt, private if it contains text of its author."""
    return replace(prompt, private=True) if isinstance(prompt, OwnPrompt) else prompt


def sort_key(prompt: Prompt) -> tuple[int, str]:
    """Return a key that orders prompts totally, `RequestPrompt` first."""
    return _ORDER.index(type(prompt)), repr(prompt)


def label(prompt: Prompt) -> str:
    """Return a short description for the brackets in formulas; empty for the request's prompt."""
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
    """Return the prompt as responses show it, JSON-able; of token ids only their number."""
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
