"""Attacks below HTTP's surface, and many requests at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from bench.abuse.attack import (
    CHAT,
    COMPLETIONS,
    KEYS,
    Attack,
    authorization,
    chat,
    completion,
    dumped,
)

HOLD_S = 2.0
"""How long silent connections are held open."""

_KEY = f"Authorization: Bearer {KEYS['user'][1]}\r\n".encode()


def connection_attacks() -> Iterator[Attack]:
    """Yield all attacks on connections; most get no answer, and no other client may notice them."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + _KEY
    for name, data in {
        "not HTTP": b"\x16\x03\x01\x02\x00\x01" * 50,
        "a header of 10 MB": head + b"X-A: " + b"a" * 10_000_000 + b"\r\n\r\n",
        "100,000 headers": head + b"X-A: a\r\n" * 100_000 + b"\r\n",
        "a path of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        "a negative length": head + b"Content-Length: -5\r\n\r\n{}",
        "two lengths": head + b"Content-Length: 2\r\nContent-Length: 50\r\n\r\n{}",
        "a length and chunks": head
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n",
        "a chunk of 2**63": head + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nabc",
        "a body that ends early": head + b"Content-Length: 900\r\n\r\n{",
        "a web socket": b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n",
        "a length of 2**62": head + b"Content-Length: 4611686018427387904\r\n\r\n{}",
    }.items():
        yield Attack(f"wire: {name}", send=lambda url, data=data: _raw(url, data))  # type: ignore[misc]
    yield Attack("500 silent connections", send=lambda url: _hold(url, 500, b""))
    half = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Le"
    yield Attack("500 half headers", send=lambda url: _hold(url, 500, half))
    begun = head + b"Content-Length: 1000\r\n\r\n{"
    yield Attack("200 bodies that stop", send=lambda url: _hold(url, 200, begun))
    publisher = f"Authorization: Bearer {KEYS['publisher'][1]}\r\n".encode()
    upload = b"PUT /v1/adapters/slow HTTP/1.1\r\nHost: a\r\n" + publisher
    upload += b"Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\nPK"
    yield Attack("60 uploads that stop", send=lambda url: _hold(url, 60, upload))
    stream = dumped(completion(max_tokens=200, stream=True, ignore_eos=True))
    reading = head + b"Content-Length: %d\r\n\r\n" % len(stream) + stream
    yield Attack("60 streams that nobody reads", send=lambda url: _hold(url, 60, reading))
    yield Attack("200 streams that leave at once", send=lambda url: _leave(url, 200))
    same = {"X-Request-Id": "the same"}
    body = completion(max_tokens=20, request_id="the same")
    yield Attack(
        "20 requests of one id",
        COMPLETIONS,
        harmless=True,
        send=lambda url: _at_once(url, [body] * 20, same),
    )
    bad = [chat(top_k=-7), chat(model="nobody"), chat(composition="("), chat(n=0)] * 50
    yield Attack("200 bad requests at once", CHAT, send=lambda url: _at_once(url, bad, {}))
    odd: dict[str, dict[str, str | bytes]] = {
        "a request id of 60 kB": {"X-Request-Id": "x" * 60_000},
        "a request id that is not ASCII": {"X-Request-Id": b"\xff\xfe"},
        "a gzipped body": {"Content-Encoding": "gzip"},
        "an unknown Expect": {"X-Composer-Expect": "x" * 1_000},
        "a store position with 500 digits": {"X-Composer-Store": ">=" + "9" * 500},
    }
    for name, headers in odd.items():
        yield Attack(name, CHAT, chat(), headers=headers, harmless=True)


def _raw(url: str, data: bytes) -> list[httpx.Response]:
    """Send bytes and read the response; answers of the HTTP parser are not judged."""
    with _connect(url) as connection:
        connection.settimeout(HOLD_S)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass  # hanging up and silence are both good answers
    return []


def _hold(url: str, count: int, data: bytes) -> list[httpx.Response]:
    """Open connections that send `data`, then neither read nor write for `HOLD_S`."""
    connections = [_connect(url) for _ in range(count)]
    try:
        for connection in connections:
            connection.sendall(data)
        time.sleep(HOLD_S)
    finally:
        for connection in connections:
            connection.close()
    return []


def _connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10)


def _at_once(url: str, bodies: Sequence[object], headers: dict[str, str]) -> list[httpx.Response]:
    def ask(body: object) -> httpx.Response:
        sent = {"Content-Type": "application/json", **authorization("user"), **headers}
        path = COMPLETIONS if isinstance(body, dict) and "prompt" in body else CHAT
        return httpx.post(
            url + path, content=dumped(body), headers=sent, timeout=60, trust_env=False
        )

    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(ask, bodies))


def _leave(url: str, count: int) -> list[httpx.Response]:
    """Start streams of composed requests and disconnect at the first byte."""

    async def leave(http: httpx.AsyncClient) -> None:
        body = chat(model="chat + 0.8*(polite - rude)", max_tokens=100, stream=True)
        async with http.stream("POST", CHAT, json=body, headers=authorization("user")) as answer:
            async for _ in answer.aiter_raw():
                break

    async def leave_all() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            await asyncio.gather(*(leave(http) for _ in range(count)))

    asyncio.run(leave_all())
    return []
