"""Requests as vLLM's routes read them: validated, and rendered by vLLM's own renderer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import has_non_text_content
from vllm.sampling_params import SamplingParams

from server.engine.composed_options import (
    refuse,
    refuse_stateful,
    refuse_unsupported,
    scoring_field,
)
from server.engine.port import (
    Body,
    Kind,
    PromptOverflowError,
    RefusedError,
    RenderedRequest,
    Tokens,
)
from server.engine.render_cache import RenderCache, install_render_cache
from server.engine.vllm.chat_forms import messages_as_chat, responses_as_chat
from server.engine.vllm.client_errors import is_client_error, refusal_of, silence_client_errors

RELIES_ON: dict[str, tuple[str, ...]] = {
    "renderers/online_renderer.py": (
        "async def render_chat(",
        "async def render_completion(",
        "async def render_responses(",
        "def effective_chat_template_kwargs(",
        "self.trust_request_chat_template = ",
        "self.exclude_tools_when_tool_choice_none = ",
    ),
    "entrypoints/anthropic/serving.py": (
        "def to_chat_completion_request(",
        "self._merge_inline_system = ",
        "async def _get_disabled_thinking_effort(self)",
        "vllm_xargs=anthropic_request.vllm_xargs,",
    ),
    "entrypoints/openai/responses/protocol.py": (
        "extra_args: dict[str, Any] = self.vllm_xargs if self.vllm_xargs else {}",
    ),
    "v1/engine/input_processor.py": ("def _validate_params(",),
    "v1/engine/async_llm.py": ("self.input_processor = InputProcessor(",),
    "entrypoints/generate/api_router.py": ("state.anthropic_serving_messages = ",),
}
"""File of vLLM -> undocumented source text that this package relies on; a test compares it."""

_REQUESTS: dict[Kind, Any] = {
    Kind.CHAT: ChatCompletionRequest,
    Kind.COMPLETION: CompletionRequest,
    Kind.RESPONSES: ResponsesRequest,
    Kind.MESSAGES: AnthropicMessagesRequest,
}
_LENGTH_PARAMETERS = ("input_tokens", "input_text")
"""`VLLMValidationError.parameter` of a prompt that exceeds the context."""


class PromptRenderer:
    """Validates and renders requests as vLLM's routes do; the port documents the methods."""

    def __init__(self, app: FastAPI, validate: Callable[[SamplingParams], object]) -> None:
        """`validate` raises the error of the engine's client for parameters that it refuses."""
        self._app = app
        self._validate = validate
        silence_client_errors()
        self._renderer = app.state.online_renderer
        install_render_cache(self._renderer.renderer)
        # The server, not the client, adds the chat templates of auxiliary models to requests, so
        # this copy trusts them.
        self._trusting = copy.copy(self._renderer)
        self._trusting.trust_request_chat_template = True

    async def render(self, kind: Kind, body: Body) -> RenderedRequest:
        """Validate and render a request (`Engine.render`)."""
        cache = RenderCache()
        try:
            with cache.active():
                return await self._render_valid(kind, body, cache)
        except Exception as error:
            raise await refusal_of(self._app, error) from error

    async def tokenize(self, kind: Kind, body: Body, chat_template: str | None = None) -> Tokens:
        """Render the one prompt of a request (`Engine.tokenize`)."""
        renderer = self._renderer
        if chat_template is not None and kind is Kind.CHAT:
            body, renderer = body | {"chat_template": chat_template}, self._trusting
        try:
            (prompt,) = await _prompts_of(_parse(kind, body), renderer)
        except VLLMValidationError as error:
            if error.parameter in _LENGTH_PARAMETERS:
                raise PromptOverflowError(str(error)) from error
            raise await refusal_of(self._app, error) from error
        except Exception as error:
            raise await refusal_of(self._app, error) from error
        return prompt

    async def refusal(self, error: Exception) -> str | None:
        """Return the client's message of an error (`Engine.refusal`)."""
        return str(await refusal_of(self._app, error)) if is_client_error(error) else None

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise `ValueError` for an unknown token id (`Engine.check_tokens`)."""
        try:
            self._renderer.renderer.validate_token_ids(tokens)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error

    def detokenize(self, tokens: Tokens) -> str:
        """Return the text of tokens (`Engine.detokenize`)."""
        return str(self._renderer.renderer.get_tokenizer().decode(list(tokens)))

    async def _render_valid(self, kind: Kind, body: Body, cache: RenderCache) -> RenderedRequest:
        request = _parse(kind, body)
        match request:
            case CompletionRequest():
                form, max_tokens, messages = Kind.COMPLETION, request.max_tokens, None
            case ResponsesRequest():
                refuse_stateful(request)
                body = responses_as_chat(self._renderer, request)
                form, max_tokens, messages = (
                    Kind.CHAT,
                    request.max_output_tokens,
                    body["messages"],
                )
            case AnthropicMessagesRequest():
                serving = self._app.state.anthropic_serving_messages
                request = await messages_as_chat(serving, request)
                body = request.model_dump(exclude_unset=True)
                body = {name: value for name, value in body.items() if value is not None}
                form, max_tokens, messages = Kind.CHAT, request.max_tokens, request.messages
            case _:
                max_tokens = request.max_completion_tokens
                max_tokens = request.max_tokens if max_tokens is None else max_tokens
                form, messages = Kind.CHAT, request.messages
        refuse_unsupported(request, chat=form is Kind.CHAT)
        if has_non_text_content(messages):
            refuse("messages" if kind is not Kind.RESPONSES else "input", "send text only")
        prompts = await _prompts_of(request, self._renderer)
        # The route would refuse these parameters too late, in a stream that has begun.
        context = self._renderer.model_config.max_model_len
        longest = context if max_tokens is None else max_tokens
        self._validate(request.to_sampling_params(longest, {}))
        scoring = scoring_field(request, chat=form is Kind.CHAT)
        return RenderedRequest(prompts, max_tokens, form, body, scoring, cache)


def _parse(kind: Kind, body: Body) -> Any:
    # A copy, because vLLM's validators change messages in place.
    return _REQUESTS[kind].model_validate(copy.deepcopy(body))


async def _prompts_of(request: Any, renderer: Any) -> tuple[Tokens, ...]:
    match request:
        case ChatCompletionRequest():
            rendered = await renderer.render_chat(request)
            inputs = rendered if isinstance(rendered, ErrorResponse) else rendered[1]
        case ResponsesRequest():
            rendered = await renderer.render_responses(request)
            inputs = rendered if isinstance(rendered, ErrorResponse) else [rendered.engine_input]
        case _:
            inputs = await renderer.render_completion(request)
    if isinstance(inputs, ErrorResponse):
        raise RefusedError(JSONResponse(inputs.model_dump(), status_code=inputs.error.code))
    return tuple(tuple(prompt["prompt_token_ids"]) for prompt in inputs)
