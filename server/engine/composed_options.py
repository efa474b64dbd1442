"""Options of vLLM's routes that composed requests do not have, each with its remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from composer.errors import UnsupportedError

_CLIENT_TOOLS = ("function", "custom", "namespace")
"""Types of /v1/responses tools that the client runs; all others run on the server."""


def refuse(field: str, remedy: str) -> NoReturn:
    """Raise `UnsupportedError` for a field of the request."""
    raise UnsupportedError(
        f"'{field}' does not go with a composition: {remedy}, or ask a single model.",
        param=field,
    )


def refuse_stateful(request: Any) -> None:
    """Refuse a request to /v1/responses for which the server would keep or run something.

    Raises:
        UnsupportedError: names the field and what to do instead.
    """
    if request.previous_response_id is not None:
        refuse("previous_response_id", "send the whole conversation as input")
    if request.previous_input_messages is not None:
        refuse("previous_input_messages", "send the whole conversation as input")
    if request.background:
        refuse("background", "wait for the answer, or stream it")
    served = [tool.type for tool in request.tools if tool.type not in _CLIENT_TOOLS]
    if served:
        refuse("tools", f"the server would run {', '.join(served)}, so give functions only")


def refuse_unsupported(request: Any, *, chat: bool) -> None:
    """Refuse options that work on requests to one model only.

    Args:
        request: as vLLM has read it; a field that its route does not have is not asked for.
        chat: whether it is a conversation.

    Raises:
        UnsupportedError: names the field and what to do instead.
    """

    def asked(field: str) -> bool:
        return getattr(request, field, None) is not None

    if asked("prompt_logprobs"):
        refuse("prompt_logprobs", "leave it out")
    if getattr(request, "use_beam_search", False):
        refuse("use_beam_search", "sample, or set temperature to 0")
    if getattr(request, "echo", False) and (chat or request.logprobs is not None):
        refuse("echo", "it asks for logprobs of the prompt, so leave it out")
    if not chat and asked("prompt_embeds"):
        refuse("prompt_embeds", "send text or token ids")
    for field in ("kv_transfer_params", "ec_transfer_params"):
        if asked(field):
            refuse(field, "leave it out")
