"""Requests as vLLM's routes read them: validated, and rendered by vLLM's own renderer.

`RELIES_ON` lists what is used here of vLLM that it does not document.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import JSONResponse
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import (
    construct_input_messages,
    construct_tool_dicts,
    should_continue_final_message,
)
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.handlers.exception import exception_handler
from vllm.entrypoints.serve.exception_handling.handlers.validation import (
    validation_exception_handler,
)
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.renderers.chat_utils import has_non_text_content
from vllm.sampling_params import SamplingParams

from composer.errors import ComposerError
from server.engine.composed_options import refuse, refuse_stateful, refuse_unsupported
from server.engine.port import (
    Body,
    Kind,
    PromptOverflowError,
    RefusedError,
    RenderedRequest,
    Tokens,
)
from server.engine.render_cache import RenderCache, install_render_cache
from server.errors import InvalidJsonError, UnreadableRequestError

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
    "renderers/base.py": (
        """    async def render_chat_async(
        self,
        conversations: Sequence[list["ChatCompletionMessageParam"]],
        chat_params: ChatParams,
        tok_params: TokenizeParams | None = None,
        *,
        prompt_extras: dict[str, Any] | None = None,
        skip_mm_cache: bool = False,
    ):""",
        """    async def render_cmpl_async(
        self,
        prompts: Sequence[DictPrompt | bytes],
        tok_params: TokenizeParams | None = None,
        *,
        prompt_extras: dict[str, Any] | None = None,
        skip_mm_cache: bool = False,
    ):""",
    ),
    "v1/engine/input_processor.py": ("def _validate_params(",),
    "v1/engine/async_llm.py": ("self.input_processor = InputProcessor(",),
    "entrypoints/generate/api_router.py": ("state.anthropic_serving_messages = ",),
}
"""File of vLLM -> source text that must be in it; a test looks."""

_REQUESTS: dict[Kind, Any] = {
    Kind.CHAT: ChatCompletionRequest,
    Kind.COMPLETION: CompletionRequest,
    Kind.RESPONSES: ResponsesRequest,
    Kind.MESSAGES: AnthropicMessagesRequest,
}
_TOO_LONG = ("input_tokens", "input_text")
"""`VLLMValidationError.parameter` where a prompt exceeds the context."""

_TEXT_PARTS = ("input_text", "output_text")

_LOGS_CLIENT_ERRORS = (
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.responses.serving",
)
"""Loggers of vLLM's that report a client's mistake, with a traceback, as well as answering it."""


def _is_clients(error: BaseException | None) -> bool:
    """Whether an error says what is wrong with a request. Subclasses of `ValueError` do not: they
    come from parsers, and may be about anything."""
    return isinstance(error, VLLMClientError) or type(error) is ValueError


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is for the operator: no client can fill the log with its mistakes."""
    return not _is_clients(record.exc_info[1] if record.exc_info else None)


class PromptRenderer:
    """What vLLM's routes make of a request before the engine gets it."""

    def __init__(self, app: FastAPI, validate: Callable[[SamplingParams], object]) -> None:
        """`validate` raises what the engine's client would, for parameters that it refuses."""
        self._app = app
        self._validate = validate
        for name in _LOGS_CLIENT_ERRORS:
            logging.getLogger(name).addFilter(_is_ours)
        self._renderer = app.state.online_renderer
        install_render_cache(self._renderer.renderer)
        # Conversations of auxiliary models come with templates of their own, which the client did
        # not send: this renderer accepts them.
        self._trusting = copy.copy(self._renderer)
        self._trusting.trust_request_chat_template = True

    async def render(self, kind: Kind, body: Body) -> RenderedRequest:
        """As `Engine.render`."""
        cache = RenderCache()
        try:
            with cache.active():
                return await self._validated(kind, body, cache)
        except Exception as error:
            raise await self._refusal(error) from error

    async def tokenize(self, kind: Kind, body: Body, chat_template: str | None = None) -> Tokens:
        """As `Engine.tokenize`."""
        renderer = self._renderer
        if chat_template is not None and kind is Kind.CHAT:
            body, renderer = body | {"chat_template": chat_template}, self._trusting
        try:
            (prompt,) = await _render(self._read(kind, body), renderer)
        except VLLMValidationError as error:
            if error.parameter in _TOO_LONG:
                raise PromptOverflowError(str(error)) from error
            raise await self._refusal(error) from error
        except Exception as error:
            raise await self._refusal(error) from error
        return prompt

    async def told(self, error: Exception) -> str | None:
        """As `Engine.refusal`."""
        return str(await self._refusal(error)) if _is_clients(error) else None

    def check_tokens(self, tokens: Tokens) -> None:
        """As `Engine.check_tokens`."""
        try:
            self._renderer.renderer.validate_token_ids(tokens)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error

    def detokenize(self, tokens: Tokens) -> str:
        """As `Engine.detokenize`."""
        return str(self._renderer.renderer.get_tokenizer().decode(list(tokens)))

    @staticmethod
    def _read(kind: Kind, body: Body) -> Any:
        # A copy: vLLM's validators change messages in place.
        return _REQUESTS[kind].model_validate(copy.deepcopy(body))

    async def _validated(self, kind: Kind, body: Body, cache: RenderCache) -> RenderedRequest:
        request = self._read(kind, body)
        match request:
            case CompletionRequest():
                form, most, messages = Kind.COMPLETION, request.max_tokens, None
            case ResponsesRequest():
                refuse_stateful(request)
                body, most = self._chat_body(request), request.max_output_tokens
                form, messages = Kind.CHAT, body["messages"]
            case AnthropicMessagesRequest():
                request = await self._as_chat(request)
                given = request.model_dump(exclude_unset=True)
                body = {name: value for name, value in given.items() if value is not None}
                form, most, messages = Kind.CHAT, request.max_tokens, request.messages
            case _:
                chosen = request.max_completion_tokens
                most = request.max_tokens if chosen is None else chosen
                form, messages = Kind.CHAT, request.messages
        refuse_unsupported(request, chat=form is Kind.CHAT)
        if has_non_text_content(messages):
            refuse("messages" if kind is not Kind.RESPONSES else "input", "send text only")
        prompts = await _render(request, self._renderer)
        # What this refuses, the route would refuse too late: in a stream that has begun.
        context = self._renderer.model_config.max_model_len
        self._validate(request.to_sampling_params(context if most is None else most, {}))
        return RenderedRequest(prompts, most, form, body, cache)

    async def _as_chat(self, request: AnthropicMessagesRequest) -> ChatCompletionRequest:
        """What vLLM's route makes of a request in Anthropic's protocol."""
        serving = self._app.state.anthropic_serving_messages
        effort = "none"
        if request.thinking is not None and request.thinking.type == "disabled":
            effort = await serving._get_disabled_thinking_effort()
        return serving.to_chat_completion_request(
            request,
            merge_inline_system=serving._merge_inline_system,
            disabled_thinking_effort=effort,
        )

    def _chat_body(self, request: ResponsesRequest) -> Body:
        """A chat request that renders to the same prompt."""
        # Unlike the chat route, /v1/responses renders tools without asking for a parser of their
        # calls; "none" does the same, unless the server is told to leave tools out then.
        excludes = self._renderer.exclude_tools_when_tool_choice_none
        tools = construct_tool_dicts(request.tools, request.tool_choice, excludes)
        continues = should_continue_final_message(request.input)
        messages = construct_input_messages(
            request_instructions=request.instructions, request_input=request.input
        )
        body: Body = {
            "messages": [_with_chat_parts(message) for message in messages],
            "chat_template_kwargs": self._renderer.effective_chat_template_kwargs(request),
            "add_generation_prompt": not continues,
            "continue_final_message": continues,
            "max_completion_tokens": request.max_output_tokens,
        }
        if tools is not None:
            body |= {"tools": tools, "tool_choice": "auto" if excludes else "none"}
        if request.reasoning is not None:
            body["reasoning_effort"] = request.reasoning.effort
        if request.truncation != "disabled":
            body["truncate_prompt_tokens"] = -1
        return body

    async def _refusal(self, error: Exception) -> Exception:
        """What answers a request that vLLM refuses: its own handlers decide what clients see."""
        # They look at the application of a request, and at nothing else.
        nobody = Request({"type": "http", "app": self._app})
        match error:
            case ComposerError() | RefusedError():
                return error
            case RecursionError():
                return InvalidJsonError("the body is nested too deeply. Send a flatter one.")
            case ValidationError():
                found = [
                    {**detail, "loc": ("body", *detail["loc"])}
                    for detail in error.errors(include_url=False)
                ]
                answer = await validation_exception_handler(nobody, RequestValidationError(found))
                return RefusedError(answer)
            case AttributeError() | LookupError() | AssertionError():
                return UnreadableRequestError(
                    f"the request cannot be read ({type(error).__name__}: {error}). Compare its "
                    "fields with the schema in /openapi.json."
                )
            case _:
                return RefusedError(await exception_handler(nobody, error))


def _with_chat_parts(message: Any) -> Any:
    """A message whose text parts are called as in chats; `type` of the message is not known there.

    All other parts stay, and are refused.
    """
    kept = {name: value for name, value in message.items() if name != "type"}
    if isinstance(parts := kept.get("content"), list):
        kept["content"] = [
            {"type": "text", "text": part["text"]} if part.get("type") in _TEXT_PARTS else part
            for part in parts
        ]
    return kept


async def _render(request: Any, renderer: Any) -> tuple[Tokens, ...]:
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
