"""ASGI `send` callables between vLLM's application and the connection, on any route."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import Message, Send

from composer.errors import EngineFault
from server.errors import RequestError, anthropic_error, error_events


class StreamGuard:
    """An ASGI `send` that tracks how far a response has come, and can end a stream."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self.begun = False
        """Whether the client has received the status."""

        self.streaming = False
        """Whether the client has received the beginning of a stream, and not its end."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.streaming = content_type(message).startswith(b"text/event-stream")
        elif not message.get("more_body", False):
            self.streaming = False
        await self._send(message)

    async def fail(self, refusal: str | None) -> None:
        """End a stream with an error event.

        `refusal` tells what is wrong with the request; None if the server failed.
        """
        fault = EngineFault("the server failed while it was answering. Ask again.")
        error = fault if refusal is None else RequestError(refusal)
        events = error_events(error, self._path)
        await self._send({"type": "http.response.body", "body": events, "more_body": False})


class AnthropicErrorSender:
    """An ASGI `send` that translates errors on the routes of Anthropic's protocol.

    vLLM answers requests to these routes that it cannot read in OpenAI's format.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None  # of an error
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await send_whole(self._send, self._start, self._translate(self._start["status"]))

    def _translate(self, status: int) -> bytes:
        try:
            answer = json.loads(self._body)
        except ValueError:
            return self._body
        error = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return self._body
        return dump(anthropic_error(status, error["message"]))


async def send_whole(send: Send, start: Message, body: bytes) -> None:
    """Send a whole response with `body` in place of the body that `start` announced."""
    headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def content_type(start: Message) -> bytes:
    """Return the header `content-type` of the start of a response."""
    return next((v for k, v in start["headers"] if k.lower() == b"content-type"), b"")


def dump(value: dict[str, Any]) -> bytes:
    """Return JSON as vLLM writes it: without spaces, and without escaping characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
