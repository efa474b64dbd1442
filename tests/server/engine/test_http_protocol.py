"""Connections that send headers without end, or nothing."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.engine import http_protocol
from server.engine.http_protocol import MAX_HEAD_BYTES, BoundedHttpProtocol
from tests.support.live_server import LiveServer

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
LATE_S = 0.05
MANY = 200 * MAX_HEAD_BYTES


def send_all(server: LiveServer, start: bytes, piece: bytes) -> tuple[int, bytes]:
    """Send until the server closes the connection; how much it took, and what it said."""
    url = urlsplit(server.url)
    sent = 0
    said = b""
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        connection.sendall(start)
        try:
            while sent < MANY:
                connection.sendall(piece)
                sent += len(piece)
            said = connection.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return sent, said


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEAD, b"x-many: " + b"y" * 1000 + b"\r\n"),
        (HEAD + b"x-long: ", b"y" * 4096),
        (b"POST /", b"y" * 4096),
        (
            HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
            b"x-trailer: " + b"y" * 4096,
        ),
    ],
)
def test_heads_without_end(server: LiveServer, start: bytes, piece: bytes) -> None:
    sent, _ = send_all(server, start, piece)
    assert sent < MANY, "the server closes the connection"
    assert server.http.get("/health").status_code == 200


def test_long_headers_and_bodies_pass(server: LiveServer) -> None:
    headers = {"x-long": "y" * (MAX_HEAD_BYTES // 2)}
    body = {"model": "base", "prompt": "x", "max_tokens": 1, "user": "y" * 5 * MAX_HEAD_BYTES}
    answer = server.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


def test_a_late_head_does_not_cut_the_answer_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client sends while its request is answered starts no clock that ends the answer."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", LATE_S)

    async def run() -> bool:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(app=_slow, http=BoundedHttpProtocol, lifespan="off")
        config.load()
        state = ServerState()
        listening = await loop.create_server(
            lambda: BoundedHttpProtocol(config=config, server_state=state, app_state={}),
            "127.0.0.1",
            0,
        )
        async with listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            writer.write(HEAD + b"content-length: 2\r\n\r\n{}")
            await reader.readuntil(b"begin ")  # so what follows comes while it is answered
            writer.write(b"\r\nPOST / HT")
            answer = await reader.read()
            writer.close()
        return b"the end" in answer

    assert asyncio.run(run())


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"begin ", b"the end"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(4 * LATE_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
