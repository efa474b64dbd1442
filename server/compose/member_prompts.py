"""The prompts of members, as token ids."""

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
from server.engine.port import (
    Body,
    Engine,
    Kind,
    PromptOverflowError,
    RefusedError,
    RenderedRequest,
    Tokens,
)

_ANSWER_FIELDS = ("max_tokens", "max_completion_tokens")
"""Left out when a member's prompt is rendered; `check_gang` checks the length of the answer."""


async def member_tokens(
    engine: Engine,
    request: RenderedRequest,
    member: Member,
    request_tokens: Tokens,
    chat_template: str | None = None,
) -> Tokens | None:
    """Return the token ids of a member's own prompt; None if it reads the request's prompt.

    Args:
        engine: renders and tokenizes.
        request: the rendered request.
        member: the member.
        request_tokens: token ids of the request's prompt.
        chat_template: of the member's model, if it differs from the base model's.

    Raises:
        CompositionError: the prompt is too long, or cannot be built from this request.
    """
    kind, body = request.kind, request.body
    match member.prompt:
        case RequestPrompt():
            if chat_template is None or kind is not Kind.CHAT:
                return None
            return await _render(engine, kind, body, member, chat_template)
        case LastToken():
            return request_tokens[-1:]
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
            text_body: Body = {"prompt": text}
            if kind is Kind.COMPLETION and "add_special_tokens" in body:
                text_body["add_special_tokens"] = body["add_special_tokens"]
            return await _render(engine, Kind.COMPLETION, text_body, member)
        case MessagesPrompt(pairs):
            chat_body = _with_messages(kind, body, pairs)
            return await _render(engine, Kind.CHAT, chat_body, member, chat_template)
        case WithoutText():
            shorter = _without(kind, body, member.prompt)
            return await _render(engine, kind, shorter, member, chat_template)


def _with_messages(kind: Kind, body: Body, pairs: tuple[tuple[str, str], ...]) -> Body:
    """Return the request with other messages, but the same tools and template arguments.

    The chat template is the server's: a template in the request (`--trust-request-chat-template`)
    could print the messages of another key's composition in an error.
    """
    messages = [{"role": role, "content": content} for role, content in pairs]
    kept = {k: v for k, v in body.items() if k != "chat_template"} if kind is Kind.CHAT else {}
    return {
        **kept,
        "messages": messages,
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def _without(kind: Kind, body: Body, prompt: WithoutText) -> Body:
    """Return the request without the prompt's text, wherever it occurs, and the blank after it.

    In Shi et al.'s input (xhan77/context-aware-decoding) the context is followed by a blank and the
    query, and the query alone begins without one.
    """
    text = prompt.text
    shown = "of the composition" if prompt.private else quoted(text)
    if kind is Kind.CHAT:
        messages = [
            {**m, "content": _remove_text(m.get("content"), text)}
            for m in body.get("messages") or []
        ]
        shorter: Body = {**body, "messages": messages}
    elif isinstance(body.get("prompt"), str):
        shorter = {**body, "prompt": _remove_text(body["prompt"], text)}
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


def _remove_text(content: Any, text: str) -> Any:
    if isinstance(content, str):
        first, *others = content.split(text)
        kept = "".join([first, *(other.lstrip() for other in others)])
        # A text at the end has no blank after it, only one before.
        return kept.rstrip() if others and not others[-1].strip() else kept
    if isinstance(content, list):
        return [
            {**part, "text": _remove_text(part["text"], text)}
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
    return content


async def _render(
    engine: Engine, kind: Kind, body: Body, member: Member, chat_template: str | None = None
) -> Tokens:
    body = {k: v for k, v in body.items() if k not in _ANSWER_FIELDS}
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
