"""One request, one rendering, by vLLM's renderer: what the cache answers, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import ChatParams, TokenizeParams, renderer_from_config

from server.engine.render_cache import RenderCache, install_render_cache

CHAT = [[{"role": "user", "content": "Hi"}]]
CHAT_PARAMS = ChatParams(chat_template_kwargs={"tokenize": False})  # as vLLM's routes ask
TOKENIZE = TokenizeParams(max_total_tokens=512)


class Counted:
    """vLLM's renderer with the cache; `calls` counts tokenized texts."""

    def __init__(self, renderer: Any) -> None:
        self.calls = 0
        self._renderer = renderer
        self._tokenize: Callable[..., Awaitable[Any]] = renderer._tokenize_prompt_async

    async def tokenize(self, *args: Any) -> Any:
        self.calls += 1
        return await self._tokenize(*args)

    async def chat(
        self,
        conversations: Any = CHAT,
        params: ChatParams = CHAT_PARAMS,
        tokenize: TokenizeParams = TOKENIZE,
        **extras: Any,
    ) -> list[int]:
        """The token ids of one conversation."""
        _, (prompt,) = await self._renderer.render_chat_async(
            conversations, params, tokenize, prompt_extras=extras or None
        )
        return list(prompt["prompt_token_ids"])

    async def texts(self, *texts: str) -> list[dict[str, Any]]:
        """The engine inputs of texts."""
        prompts = [{"prompt": text} for text in texts]
        inputs: list[dict[str, Any]] = await self._renderer.render_cmpl_async(prompts, TOKENIZE)
        return inputs


@pytest.fixture(scope="module")
def vllm_renderer(zoo_base: Path) -> Any:
    """The renderer of the small base model, with the cache, without an engine."""
    config = EngineArgs(model=str(zoo_base), max_model_len=512).create_engine_config()
    renderer = renderer_from_config(config)
    install_render_cache(renderer)
    return renderer


@pytest.fixture
def renderer(vllm_renderer: Any, monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted(vllm_renderer)
    monkeypatch.setattr(vllm_renderer, "_tokenize_prompt_async", counted.tokenize)
    return counted


def test_without_a_cache_every_call_renders(renderer: Counted) -> None:
    async def run() -> None:
        for _ in range(2):
            await renderer.chat()

    asyncio.run(run())
    assert renderer.calls == 2


def test_equal_calls_render_once_also_in_tasks(renderer: Counted) -> None:
    async def run() -> tuple[Any, Any, Any]:
        cache = RenderCache()
        with cache.active():
            first = await renderer.texts("ab", "c")
            first[0]["cache_salt"] = "of one caller"
        with cache.active_once():
            second = await asyncio.create_task(renderer.texts("ab", "c"))
        return first, second, await renderer.texts("ab", "c")

    first, second, outside = asyncio.run(run())
    ids = [[prompt["prompt_token_ids"] for prompt in inputs] for inputs in (first, second, outside)]
    assert ids[0] == ids[1] == ids[2]
    assert "cache_salt" not in second[0], "what one caller writes, another does not see"
    assert renderer.calls == 4, "two texts, rendered once in the cache and once outside"


@pytest.mark.parametrize(
    "other",
    [
        {"conversations": [[{"role": "user", "content": "Ho"}]]},
        {"conversations": [[*CHAT[0], {"role": "assistant", "content": "Yes"}, *CHAT[0]]]},
        {"params": replace(CHAT_PARAMS, chat_template="{{ messages[0].content }}")},
        {"params": replace(CHAT_PARAMS, chat_template_kwargs={"tokenize": False, "effort": "low"})},
        {"tokenize": replace(TOKENIZE, add_special_tokens=False)},
        {"cache_salt": "x"},
    ],
)
def test_a_different_call_renders_again(renderer: Counted, other: dict[str, Any]) -> None:
    async def run() -> None:
        with RenderCache().active():
            await renderer.chat()
            await renderer.chat(**other)

    asyncio.run(run())
    assert renderer.calls == 2


def test_what_changes_in_place_renders_again(renderer: Counted) -> None:
    async def run() -> tuple[list[int], list[int]]:
        conversation = [{"role": "user", "content": "Hi"}]
        with RenderCache().active():
            first = await renderer.chat([conversation])
            conversation[0]["content"] = "Good morning"
            return first, await renderer.chat([conversation])

    first, second = asyncio.run(run())
    assert first != second


def test_iterators_are_not_cached(renderer: Counted) -> None:
    def conversation() -> Any:
        return [{"role": "user", "content": iter([{"type": "text", "text": "Hi"}])}]

    async def run() -> tuple[list[int], list[int]]:
        with RenderCache().active():
            return await renderer.chat([conversation()]), await renderer.chat([conversation()])

    first, second = asyncio.run(run())
    assert first == second
    assert renderer.calls == 2


def test_a_spent_cache_is_empty_and_requests_share_none(renderer: Counted) -> None:
    async def request(text: str) -> None:
        cache = RenderCache()
        for context in (cache.active(), cache.active_once(), cache.active()):
            with context:
                await renderer.texts(text)

    async def run() -> None:
        await asyncio.gather(request("a"), request("a"), request("b"))

    asyncio.run(run())
    assert renderer.calls == 6, "each of three requests before and after its cache was spent"
