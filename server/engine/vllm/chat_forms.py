"""Requests to /v1/responses and /v1/messages as chat requests that render to the same prompt."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import (
    construct_input_messages,
    construct_tool_dicts,
    should_continue_final_message,
)

from server.engine.port import Body

_TEXT_PARTS = ("input_text", "output_text")


async def messages_as_chat(
    serving: Any, request: AnthropicMessagesRequest
) -> ChatCompletionRequest:
    """Return the chat request that vLLM's route makes of a request in Anthropic's protocol.

    `serving` is vLLM's `AnthropicServingMessages`.
    """
    effort = "none"
    if request.thinking is not None and request.thinking.type == "disabled":
        effort = await serving._get_disabled_thinking_effort()
    chat: ChatCompletionRequest = serving.to_chat_completion_request(
        request,
        merge_inline_system=serving._merge_inline_system,
        disabled_thinking_effort=effort,
    )
    return chat


def responses_as_chat(renderer: Any, request: ResponsesRequest) -> Body:
    """Return the body of a chat request with the prompt of a request to /v1/responses.

    `renderer` is vLLM's `OnlineRenderer`.
    """
    # Unlike the chat route, /v1/responses renders tools without a parser of tool calls. The tool
    # choice "none" has the same effect, unless the server excludes tools then.
    excludes_tools = renderer.exclude_tools_when_tool_choice_none
    tools = construct_tool_dicts(request.tools, request.tool_choice, excludes_tools)
    continues = should_continue_final_message(request.input)
    messages = construct_input_messages(
        request_instructions=request.instructions, request_input=request.input
    )
    body: Body = {
        "messages": [_with_chat_parts(message) for message in messages],
        "chat_template_kwargs": renderer.effective_chat_template_kwargs(request),
        "add_generation_prompt": not continues,
        "continue_final_message": continues,
        "max_completion_tokens": request.max_output_tokens,
    }
    if tools is not None:
        body |= {"tools": tools, "tool_choice": "auto" if excludes_tools else "none"}
    if request.reasoning is not None:
        body["reasoning_effort"] = request.reasoning.effort
    if request.truncation != "disabled":
        body["truncate_prompt_tokens"] = -1
    return body


def _with_chat_parts(message: Any) -> Any:
    """Return a message without `type`, its text parts named as in chats.

    Other parts stay, and are refused later.
    """
    chat_message = {name: value for name, value in message.items() if name != "type"}
    if isinstance(parts := chat_message.get("content"), list):
        chat_message["content"] = [
            {"type": "text", "text": part["text"]} if part.get("type") in _TEXT_PARTS else part
            for part in parts
        ]
    return chat_message
