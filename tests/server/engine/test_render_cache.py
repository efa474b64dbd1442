"""One request, one rendering: what the cache gives back, and when it does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.engine.render_cache import RenderCache, install_render_cache


@dataclass(frozen=True)
class Params:
    template: str = "plain"
    extra: dict[str, Any] = field(default_factory=dict)


class Renderer:
    """Renders a conversation to one token for each message, and a text to one for each letter."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def render_chat_async(
        self, conversations: Any, params: Params, *, prompt_extras: Any = None
    ) -> Any:
        self.calls.append(params.template)
        await asyncio.sleep(0)
        inputs = [{"prompt_token_ids": list(range(len(list(c))))} for c in conversations]
        return conversations, inputs

    async def render_cmpl_async(self, prompts: Any, params: Params) -> Any:
        self.calls.append(params.template)
        return [{"prompt_token_ids": list(map(ord, prompt))} for prompt in prompts]


@pytest.fixture
def renderer() -> Renderer:
    renderer = Renderer()
    install_render_cache(renderer)
    return renderer


CHAT = [[{"role": "user", "content": "Hi"}]]


def test_without_a_cache_every_call_renders(renderer: Renderer) -> None:
    async def run() -> None:
        for _ in range(2):
            await renderer.render_chat_async(CHAT, Params())

    asyncio.run(run())
    assert len(renderer.calls) == 2


def test_equal_calls_render_once_also_in_tasks(renderer: Renderer) -> None:
    async def run() -> tuple[Any, Any, Any]:
        cache = RenderCache()
        with cache.active():
            first = await renderer.render_cmpl_async(["ab", "c"], Params())
            first[0]["arrival_time"] = 1.0
        with cache.spent():
            second = await asyncio.create_task(renderer.render_cmpl_async(["ab", "c"], Params()))
        third = await renderer.render_cmpl_async(["ab", "c"], Params())
        return first, second, third

    first, second, third = asyncio.run(run())
    assert second == third == [{"prompt_token_ids": [97, 98]}, {"prompt_token_ids": [99]}]
    assert first[0] != second[0], "what one caller writes, another does not see"
    assert len(renderer.calls) == 2, "the third was made outside"


@pytest.mark.parametrize(
    "other",
    [
        ([[{"role": "user", "content": "Ho"}]], Params()),
        ([[*CHAT[0], *CHAT[0]]], Params()),
        (CHAT, Params("other")),
        (CHAT, Params(extra={"effort": "low"})),
        (CHAT, Params(), {"cache_salt": "x"}),
    ],
)
def test_another_call_renders_again(renderer: Renderer, other: tuple[Any, ...]) -> None:
    async def run() -> None:
        with RenderCache().active():
            await renderer.render_chat_async(CHAT, Params())
            conversations, params, *extras = other
            options = {"prompt_extras": extras[0]} if extras else {}
            await renderer.render_chat_async(conversations, params, **options)

    asyncio.run(run())
    assert len(renderer.calls) == 2


def test_what_changes_in_place_renders_again(renderer: Renderer) -> None:
    async def run() -> None:
        conversation = [{"role": "user", "content": "Hi"}]
        with RenderCache().active():
            await renderer.render_chat_async([conversation], Params())
            conversation.append({"role": "assistant", "content": "Hello"})
            _, (rendered,) = await renderer.render_chat_async([conversation], Params())
            assert rendered["prompt_token_ids"] == [0, 1]

    asyncio.run(run())


def test_iterators_have_no_key(renderer: Renderer) -> None:
    async def run() -> None:
        with RenderCache().active():
            for _ in range(2):
                _, (rendered,) = await renderer.render_chat_async([iter(CHAT[0])], Params())
                assert rendered["prompt_token_ids"] == [0]

    asyncio.run(run())
    assert len(renderer.calls) == 2


def test_a_spent_cache_is_empty_and_requests_share_none(renderer: Renderer) -> None:
    async def request(template: str) -> None:
        cache = RenderCache()
        with cache.active():
            await renderer.render_chat_async(CHAT, Params(template))
        with cache.spent():
            await renderer.render_chat_async(CHAT, Params(template))
        with cache.active():
            await renderer.render_chat_async(CHAT, Params(template))

    async def run() -> None:
        await asyncio.gather(request("a"), request("a"), request("b"))

    asyncio.run(run())
    assert sorted(renderer.calls) == ["a"] * 4 + ["b"] * 2
