"""Options of vLLM's routes that composed requests cannot have, each with its remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from composer.errors import UnsupportedError

_CLIENT_TOOLS = ("function", "custom", "namespace")
"""Types of tools of /v1/responses that the client runs; the server runs all others."""


def refuse(field: str, remedy: str) -> NoReturn:
    """Raise `UnsupportedError` for a field, with its remedy."""
    raise UnsupportedError(
        f"'{field}' does not go with a composition: {remedy}, or ask a single model.",
        param=field,
    )


def refuse_stateful(request: Any) -> None:
    """Refuse a request to /v1/responses that needs state or tools on the server.

    Raises:
        UnsupportedError: names the field and what to do instead.
    """
    if request.previous_response_id is not None:
        refuse("previous_response_id", "send the whole conversation as input")
    if request.previous_input_messages is not None:
        refuse("previous_input_messages", "send the whole conversation as input")
    if request.background:
        refuse("background", "wait for the answer, or stream it")
    server_tools = [tool.type for tool in request.tools if tool.type not in _CLIENT_TOOLS]
    if server_tools:
        refuse("tools", f"the server would run {', '.join(server_tools)}, so give functions only")


def scoring_field(request: Any, *, chat: bool) -> str | None:
    """Return the field by which a request asks for logprobs of its prompt; None if it does not.

    Args:
        request: the request as vLLM has parsed it; routes lack some of the fields.
        chat: whether the request is a conversation, of which `echo` alone asks for them.
    """
    if getattr(request, "prompt_logprobs", None) is not None:
        return "prompt_logprobs"
    echoes = getattr(request, "echo", False) and (chat or request.logprobs is not None)
    return "echo" if echoes else None


def refuse_unsupported(request: Any, *, chat: bool) -> None:
    """Refuse options that only requests to one model can have.

    Args:
        request: the request as vLLM has parsed it; routes lack some of the fields.
        chat: whether the request is a conversation.

    Raises:
        UnsupportedError: names the field and what to do instead.
    """

    def has(field: str) -> bool:
        return getattr(request, field, None) is not None

    if getattr(request, "use_beam_search", False):
        refuse("use_beam_search", "sample, or set temperature to 0")
    if not chat and has("prompt_embeds"):
        refuse("prompt_embeds", "send text or token ids")
    for field in ("kv_transfer_params", "ec_transfer_params"):
        if has(field):
            refuse(field, "leave it out")
