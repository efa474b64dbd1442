"""What vLLM's own routes render is what members with prompts of their own start from."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.utils.argparse_utils import FlexibleArgumentParser

from composer.errors import UnsupportedError
from server.engine.port import Kind
from server.engine.vllm.prompt_renderer import RELIES_ON, PromptRenderer
from server.engine.vllm.vllm_cli import make_arg_parser
from server.server_options import option_names, option_parser, refuse_misspelt

TEMPLATE = (
    "{% for tool in tools or [] %}<{{ tool.function.name }}: {{ tool.function.parameters }}>"
    "{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }}{{ call.function.arguments }}]"
    "{% endfor %}; {% endfor %}{{ reasoning_effort }} {{ shout }}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
FUNCTION = {"type": "function", "name": "sum", "parameters": {"type": "object"}}
HISTORY = [
    {"role": "user", "content": [{"type": "input_text", "text": "Add 1 and 2."}]},
    {"type": "function_call", "call_id": "1", "name": "sum", "arguments": '{"n": [1, 2]}'},
    {"type": "function_call_output", "call_id": "1", "output": "3"},
]


def test_vllm_still_has_what_we_rely_on() -> None:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    sources = {file: (root / file).read_text(encoding="utf-8") for file in RELIES_ON}
    gone = [(file, t) for file, texts in RELIES_ON.items() for t in texts if t not in sources[file]]
    assert not gone, "server/engine/vllm/prompt_renderer.py relies on these"


def test_no_option_of_vllm_is_taken_for_a_misspelt_one_of_ours() -> None:
    options = make_arg_parser(FlexibleArgumentParser())._option_string_actions
    for name in options:
        if name.startswith("--"):
            underscored = "--" + name[2:].replace("-", "_")
            refuse_misspelt(option_parser(), [name, f"{name}=1"])
            if name not in option_names():  # argparse knows ours with dashes only
                refuse_misspelt(option_parser(), [underscored])


@pytest.fixture(scope="module", params=[False, True])
def renderer(request: pytest.FixtureRequest, zoo_base: Path) -> PromptRenderer:
    """vLLM's renderer with a template that shows all it is given, without an engine."""
    config = EngineArgs(model=str(zoo_base), max_model_len=512).create_engine_config()
    app = FastAPI()
    app.state.args = Namespace(log_error_stack=False)
    app.state.online_renderer = OnlineRenderer(
        config.model_config,
        renderer_from_config(config),
        request_logger=None,
        chat_template=TEMPLATE,
        chat_template_content_format="string",
        enable_auto_tools=request.param,
        exclude_tools_when_tool_choice_none=request.param,
        tool_parser="hermes" if request.param else None,
    )
    return PromptRenderer(app, lambda params: None)


@pytest.mark.parametrize(
    "body",
    [
        {"input": "Hi"},
        {"input": "Hi", "instructions": "Be kind."},
        {"input": HISTORY, "tools": [FUNCTION]},
        {"input": HISTORY, "tools": [FUNCTION], "tool_choice": "none"},
        {"input": "Hi", "reasoning": {"effort": "low"}, "chat_template_kwargs": {"shout": 1}},
        {"input": "word " * 600, "truncation": "auto", "max_output_tokens": 8},
        {"input": [HISTORY[0], {"role": "assistant", "content": "1 + 2 is", "type": "message"}]},
    ],
)
def test_a_response_as_a_chat_has_the_same_prompt(
    renderer: PromptRenderer, body: dict[str, Any]
) -> None:
    async def run() -> tuple[tuple[int, ...], tuple[int, ...]]:
        rendered = await renderer.render(Kind.RESPONSES, body)
        assert rendered.kind is Kind.CHAT
        return rendered.prompts[0], await renderer.tokenize(Kind.CHAT, rendered.body)

    real, converted = asyncio.run(run())
    text = renderer.detokenize(real)
    assert converted == real, (text, renderer.detokenize(converted))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools"),
        ({"kv_transfer_params": {"x": 1}}, "kv_transfer_params"),
    ],
)
def test_what_a_response_cannot_compose(
    renderer: PromptRenderer, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"'{field}'"):
        asyncio.run(renderer.render(Kind.RESPONSES, {"input": "Hi"} | body))
