"""A server behind a proxy that adds a prefix: the same routes ask for the same keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.auth.access_control import AccessControl, MetricsAccess
from server.auth.keys import KeyRing
from server.auth.quotas import Quotas


def status(method: str, path: str, root_path: str) -> int:
    """Return 200 if a request without a key is let through, else the status of the refusal."""
    sent: list[Message] = []

    async def passed(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing reads the body")

    keys = KeyRing(["secret"], admin_key="of the admin")
    control = AccessControl(passed, keys=keys, quotas=Quotas(), metrics=MetricsAccess.OPEN)
    scope: dict[str, Any] = {
        **{"type": "http", "method": method, "headers": []},
        **{"path": path, "root_path": root_path},
    }
    asyncio.run(control(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("prefix", ["", "/llm"])
def test_keyless_routes(prefix: str) -> None:
    for path in ("/health", "/ready", "/live", "/metrics"):
        assert status("GET", prefix + path, prefix) == 200, path
        assert status("POST", prefix + path, prefix) == 401, path
    for path in ("/v1/models", "/v1/completions", "/v1/adapters", "/healthx"):
        assert status("GET", prefix + path, prefix) == 401, path
