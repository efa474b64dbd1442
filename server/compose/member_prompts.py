"""What the members of a composition read, in tokens."""

from __future__ import annotations

from typing import Any

from composer.errors import CompositionSchemaError, PromptTooLongError, UnsupportedError, quoted
from composer.plan import Member
from composer.prompts import (
    LastToken,
    MessagesPrompt,
    RequestPrompt,
    TextPrompt,
    TokensPrompt,
    WithoutText,
)
from server.engine.port import Body, Engine, Kind, PromptOverflowError, RefusedError, Tokens

_OF_THE_ANSWER = ("max_tokens", "max_completion_tokens")
"""Left out when a member's prompt is rendered: its length is checked with the whole group."""


async def member_tokens(
    engine: Engine,
    kind: Kind,
    body: Body,
    member: Member,
    request: Tokens,
    chat_template: str | None = None,
) -> Tokens | None:
    """The token ids of the member's own prompt; None where it reads the request's.

    Args:
        engine: renders and tokenizes.
        kind: the route of the request.
        body: the request.
        member: whose prompt it is.
        request: the tokens of the request's prompt.
        chat_template: of the member's model, where it differs from the base model's.

    Raises:
        CompositionError: the prompt is too long, or does not go with this request.
    """
    match member.prompt:
        case RequestPrompt():
            if chat_template is None or kind is not Kind.CHAT:
                return None
            return await _render(engine, kind, body, member, chat_template)
        case LastToken():
            return request[-1:]
        case TokensPrompt(token_ids, private):
            try:
                engine.check_tokens(token_ids)
            except ValueError as error:
                reason = "an id is not in the vocabulary" if private else error
                raise CompositionSchemaError(
                    f"the prompt of member {member}: {reason}", param="composition"
                ) from error
            return token_ids
        case TextPrompt(text):
            special = {k: v for k, v in body.items() if k == "add_special_tokens"}
            special = special if kind is Kind.COMPLETION else {}
            return await _render(engine, Kind.COMPLETION, {"prompt": text, **special}, member)
        case MessagesPrompt(pairs):
            other = _with_messages(kind, body, pairs)
            return await _render(engine, Kind.CHAT, other, member, chat_template)
        case WithoutText():
            shorter = _without(kind, body, member.prompt)
            return await _render(engine, kind, shorter, member, chat_template)


def _with_messages(kind: Kind, body: Body, pairs: tuple[tuple[str, str], ...]) -> Body:
    """The request with other messages: the same arguments of the template, and tools.

    The template is the server's: one that a request brings (`--trust-request-chat-template`) could
    print the messages of somebody else's composition in an error.
    """
    messages = [{"role": role, "content": content} for role, content in pairs]
    same = {k: v for k, v in body.items() if k != "chat_template"} if kind is Kind.CHAT else {}
    return {
        **same,
        "messages": messages,
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def _without(kind: Kind, body: Body, prompt: WithoutText) -> Body:
    """The request with every occurrence of the prompt's text removed."""
    text = prompt.text
    shown = "of the composition" if prompt.private else quoted(text)
    if kind is Kind.CHAT:
        messages = [
            {**m, "content": _removed(m.get("content"), text)} for m in body.get("messages") or []
        ]
        shorter: Body = {**body, "messages": messages}
    elif isinstance(body.get("prompt"), str):
        shorter = {**body, "prompt": _removed(body["prompt"], text)}
    else:
        raise UnsupportedError(
            f"the text {shown} cannot be removed from a prompt of token ids. "
            "Send the prompt as one string.",
            param="prompt",
        )
    if shorter == body:
        raise CompositionSchemaError(
            f"the text {shown} does not occur in the request, so removing it changes "
            "nothing. Give the context exactly as the request holds it.",
            param="composition",
        )
    return shorter


def _removed(content: Any, text: str) -> Any:
    if isinstance(content, str):
        return content.replace(text, "")
    if isinstance(content, list):
        return [
            {**part, "text": part["text"].replace(text, "")}
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
    return content


async def _render(
    engine: Engine, kind: Kind, body: Body, member: Member, chat_template: str | None = None
) -> Tokens:
    body = {k: v for k, v in body.items() if k not in _OF_THE_ANSWER}
    try:
        tokens = await engine.tokenize(kind, body, chat_template)
    except PromptOverflowError as error:
        raise PromptTooLongError(
            f"the prompt of member {member}: {error}", param="composition"
        ) from error
    except RefusedError as error:
        raise CompositionSchemaError(
            f"the prompt of member {member} was refused: {error}", param="composition"
        ) from error
    if not tokens:
        raise CompositionSchemaError(
            f"the prompt of member {member} has no tokens. Give it some text.", param="composition"
        )
    return tokens
