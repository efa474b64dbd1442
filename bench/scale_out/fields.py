"""Fields of a request that the router does not know arrive, or the request is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from bench.scale_out.cluster import COMPLETIONS, Check

FORMULA = "base + 0.5*(polite - rude)"
EXPECT = {"X-Composer-Expect": "composition"}
_CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT | {"max_tokens": 4},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 4},
    "/v1/messages": _CHAT | {"max_tokens": 4},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 4},
}
"""Route -> body without `model`."""

WITH_HEADERS = ("/v1/chat/completions", COMPLETIONS)
"""Routes on which vllm-router 0.1.17 passes headers on."""


def arrive(router: httpx.Client, model: str) -> Iterator[Check]:
    """Ask in all forms; `model` is the base's name."""
    for route, body in ROUTES.items():
        for stream in (False, True):
            body = body | {"model": model, "stream": stream}
            kind = f"{route}{', streamed' if stream else ''}"
            answer = router.post(route, json=body | {"composition": FORMULA})
            rows = [part["rows"] for part in _reports(answer)]
            yield f"the field composition arrives: {kind}", bool(rows) and set(rows) == {3}
            formula = router.post(route, json=body | {"model": FORMULA})
            yield f"a formula as the model arrives: {kind}", bool(list(_reports(formula)))
            if route in WITH_HEADERS:
                refused = router.post(route, json=body, headers=EXPECT)
                yield f"a lost composition is refused: {kind}", _is_refused(refused)
    chat = ROUTES["/v1/chat/completions"]
    body = chat | {"model": model, "composition": FORMULA, "explain": True, "compare": True}
    answer = router.post("/v1/chat/completions", json=body).json()
    yield "the fields explain and compare arrive", {"explanation", "comparison"} <= answer.keys()


def without_headers(router: httpx.Client, model: str) -> list[str]:
    """Return the routes that answer although the header says that a composition got lost."""
    return [
        route
        for route, body in ROUTES.items()
        if not _is_refused(router.post(route, json=body | {"model": model}, headers=EXPECT))
    ]


def _is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 400 and "may have dropped the field" in answer.text


def _reports(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the reports of what was composed, of a whole answer or of the events of a stream."""
    if answer.status_code != 200:
        return
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.splitlines() if streamed else [f"data: {answer.text}"]
    for line in lines:
        if line.startswith("data: {"):
            data = json.loads(line.removeprefix("data: "))
            for part in (data, data.get("message") or {}, data.get("response") or {}):
                if "composition" in part:
                    yield part["composition"]
