"""Decorated answers: whole ones, and streams cut at every place."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from server.rewrite import AnswerSender, Decoration, EventStream

PLAN = {"plan": {"formula": "base + polite"}, "rows": 2}
EVENTS = "".join(
    [
        'data: {"id":"1","model":"e@1","choices":[{"delta":{"content":"schön 🙂"}}]}\n\n',
        ": keep-alive\n\n",
        'data: {"id":"1","model":"e@1","choices":[{"delta":{"content":"\\n\\n"}}]}\r\n\r\n',
        'data: {"id":"1","model":"e@1","choices":[],"usage":{"total_tokens":3}}\n\n',
        "data: [DONE]\n\n",
    ]
).encode()


def rewritten(pieces: list[bytes]) -> bytes:
    stream = EventStream(Decoration("kind", PLAN))
    return b"".join([stream.feed(piece) for piece in pieces] + [stream.close()])


def chunks(data: bytes) -> list[Any]:
    lines = data.decode().splitlines()
    texts = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_first_chunk_and_usage_tell_the_composition() -> None:
    first, second, usage, done = chunks(rewritten([EVENTS]))
    assert [c["model"] for c in (first, second, usage)] == ["kind"] * 3
    assert first["composition"] == usage["composition"] == PLAN
    assert "composition" not in second
    assert done == "[DONE]"
    assert first["choices"][0]["delta"]["content"] == "schön 🙂"
    assert b": keep-alive\n\n" in rewritten([EVENTS])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_it_does_not_matter_where_the_pieces_end(size: int) -> None:
    pieces = [EVENTS[start : start + size] for start in range(0, len(EVENTS), size)]
    assert rewritten(pieces) == rewritten([EVENTS])


def test_events_leave_as_soon_as_they_are_complete() -> None:
    stream = EventStream(Decoration("kind", None))
    assert stream.feed(b'data: {"model":"e"}\n') == b""
    assert stream.feed(b"\nda") == b'data: {"model":"kind"}\n\n'
    assert stream.feed(b"ta: [DONE]\n\n") == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "event",
    [
        'data: {"error":{"message":"engine died","code":500}}\n\n',
        "data: {not json\n\n",
        "data: [1,2]\n\n",
        "event: ping\n\n",
        ": comment\n\n",
        'data: {"model":"e@1","cho',
    ],
)
def test_what_is_not_a_chunk_passes_unchanged(event: str) -> None:
    assert rewritten([event.encode()]) == event.encode()


def test_other_fields_of_an_event_stay() -> None:
    out = rewritten([b'event: x\nid: 7\ndata: {"model":"e"}\n\n'])
    assert out.startswith(b"event: x\nid: 7\ndata: {")


async def _sent(
    status: int, kind: bytes, bodies: list[bytes]
) -> tuple[AnswerSender, list[Message]]:
    out: list[Message] = []

    async def send(message: Message) -> None:
        out.append(message)

    sender = AnswerSender(send, Decoration("kind", PLAN))
    headers = [(b"content-type", kind), (b"content-length", b"%d" % sum(map(len, bodies)))]
    await sender({"type": "http.response.start", "status": status, "headers": headers})
    for number, body in enumerate(bodies, start=1):
        more = number < len(bodies)
        await sender({"type": "http.response.body", "body": body, "more_body": more})
    return sender, out


def sent(status: int, kind: bytes, bodies: list[bytes]) -> list[Message]:
    return asyncio.run(_sent(status, kind, bodies))[1]


def test_a_whole_answer_has_the_right_length() -> None:
    answer = {"id": "1", "model": "e@1", "choices": [{"text": "schön"}], "usage": None}
    data = json.dumps(answer).encode()
    start, body = sent(200, b"application/json", [data[:10], data[10:]])
    assert json.loads(body["body"]) == answer | {"model": "kind", "composition": PLAN}
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])


def test_errors_pass_unchanged() -> None:
    error = b'{"error": {"message": "no", "code": 400}, "model": "e"}'
    start, body = sent(400, b"application/json", [error])
    assert (start["status"], body["body"]) == (400, error)


def test_every_event_of_a_stream_is_sent_at_once() -> None:
    events = [b'data: {"model":"e"}\n\n', b"data: [DONE]\n\n", b""]
    _, first, done, end = sent(200, b"text/event-stream; charset=utf-8", events)
    assert b'"kind"' in first["body"]
    assert done["body"] == b"data: [DONE]\n\n"
    assert not end["more_body"]


def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    async def run() -> list[Message]:
        event = b'data: {"model":"e"}\n\n'
        sender, out = await _sent(200, b"text/event-stream", [event, event, event])
        assert sender.streaming
        await sender.fail()
        return out

    last = asyncio.run(run())[-1]
    assert not last["more_body"]
    assert chunks(last["body"])[0]["error"]["code"] == "engine_fault"
