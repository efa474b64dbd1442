"""The text of a request that routers choose by."""

from __future__ import annotations

from composer.errors import UnsupportedError
from server.engine.port import Body, Engine, Kind, Tokens


def prompt_text(engine: Engine, kind: Kind, body: Body) -> str:
    """Return the last message of the user, or the prompt.

    Malformed input counts as empty: vLLM refuses it afterwards in its own words.

    Raises:
        UnsupportedError: there are several prompts, which may need different experts.
    """
    if kind is not Kind.COMPLETION:
        return _question(body.get("input" if kind is Kind.RESPONSES else "messages"))
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        [prompt] = prompt
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        raise UnsupportedError(
            f"the request has {len(prompt)} prompts, and a router chooses by the prompt. "
            "Send the prompts one by one.",
            param="prompt",
        )
    if isinstance(prompt, list):
        return _decode(engine, tuple(prompt))
    return prompt if isinstance(prompt, str) else ""


def _decode(engine: Engine, tokens: Tokens) -> str:
    try:
        engine.check_tokens(tokens)
    except ValueError:
        return ""
    return engine.detokenize(tokens)


def _question(messages: object) -> str:
    """Return the text of the user's last message, or of all messages if none is the user's.

    In all three protocols with messages, content parts hold their text in `text`.
    """
    if isinstance(messages, str):  # the short form of /v1/responses
        return messages
    if not isinstance(messages, list):
        return ""
    well_formed = [message for message in messages if isinstance(message, dict)]
    from_user = [message for message in well_formed if message.get("role") == "user"]
    return "\n".join(_content(m.get("content")) for m in from_user[-1:] or well_formed)


def _content(content: object) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
