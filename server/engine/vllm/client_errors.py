"""What vLLM tells a client about an error, by vLLM's own handlers."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from vllm.entrypoints.serve.exception_handling.handlers.exception import exception_handler
from vllm.entrypoints.serve.exception_handling.handlers.validation import (
    validation_exception_handler,
)
from vllm.exceptions import VLLMClientError

from composer.errors import ComposerError
from server.engine.port import RefusedError
from server.errors import InvalidJsonError, UnreadableRequestError

_LOGGERS = (
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.responses.serving",
)
"""Loggers of vLLM that report a client's mistake with a traceback, besides answering it."""


def is_client_error(error: BaseException | None) -> bool:
    """Return whether the message of an error is for the client.

    Subclasses of `ValueError` do not count: parsers raise them about anything.
    """
    return isinstance(error, VLLMClientError) or type(error) is ValueError


def silence_client_errors() -> None:
    """Keep clients from filling the log: drop vLLM's records of their mistakes."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_for_operator)


def _is_for_operator(record: logging.LogRecord) -> bool:
    return not is_client_error(record.exc_info[1] if record.exc_info else None)


async def refusal_of(app: FastAPI, error: Exception) -> Exception:
    """Return the error to raise for a request on which vLLM raised `error`.

    Args:
        app: vLLM's application, whose handlers decide what clients see.
        error: what vLLM raised.
    """
    request = Request({"type": "http", "app": app})  # the handlers look at the application only
    match error:
        case ComposerError() | RefusedError():
            return error
        case RecursionError():
            return InvalidJsonError("the body is nested too deeply. Send a flatter one.")
        case ValidationError():
            details = [
                {**detail, "loc": ("body", *detail["loc"])}
                for detail in error.errors(include_url=False)
            ]
            response = await validation_exception_handler(request, RequestValidationError(details))
            return RefusedError(response)
        case AttributeError() | LookupError() | AssertionError():
            return UnreadableRequestError(
                f"the request cannot be read ({type(error).__name__}: {error}). Compare its "
                "fields with the schema in /openapi.json."
            )
        case _:
            return RefusedError(await exception_handler(request, error))
